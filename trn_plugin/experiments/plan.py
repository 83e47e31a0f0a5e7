"""The plan of a comparison: rows, scales, and one run for each row and seed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trn_plugin.errors import ConfigError

__all__ = ["Column", "Row", "Run", "Scale", "Table", "runs_of"]

TRAINING = ("-m", "trn_plugin.experiments.training")

ONE_CHECKPOINT = (
    "default_hooks.checkpoint.interval=1000000",  # only at the end
    "default_hooks.checkpoint.max_keep_ckpts=1",
    "save_on_sigterm=True",
)
WITHOUT_EFFECT = (
    *(option.partition("=")[0] for option in ONE_CHECKPOINT),
    *("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "cache_gb"),
)
"""Suffixes of the keys that do not change results."""


@dataclass(frozen=True)
class Column:
    """A metric in a table.

    Attributes:
        key (str): name of the metric.
        title (str): column title.
        better (int): -1 if less is better, 1 if more is, 0 if neither.
        digits (int): decimal places.
    """

    key: str
    title: str
    better: int = 0
    digits: int = 2


@dataclass(frozen=True)
class Row:
    """A method in a table.

    Attributes:
        name (str): row title.
        config (str): config file, relative to the working directory of the runs.
        options (Sequence[str]): KEY=VALUE that this method changes in the config.
        baseline (str): name of the row to compare with; '' for none.
        paper (Mapping[str, float]): the paper's numbers by column key.
        part (str): heading of the group of rows that this row belongs to.
        keys (Mapping[str, str]): names of this row's metrics by column key, where they differ.
        at (Mapping[str, Sequence[str]]): additional options by the name of the scale.
    """

    name: str
    config: str
    options: Sequence[str] = ()
    baseline: str = ""
    paper: Mapping[str, float] = field(default_factory=dict)
    part: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    at: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name of the row's folder."""
        name = re.sub(r"(?<!\w)-(?=\d)", "minus ", f"{self.part} {self.name}".lower())
        return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


@dataclass(frozen=True)
class Scale:
    """The size of a comparison: network, pictures and length of training.

    Attributes:
        about (str): a sentence that describes the scale.
        options (Sequence[str]): KEY=VALUE for every row.
        splits (Sequence[str]): sets to measure, 'val' and 'test'.
    """

    about: str
    options: Sequence[str]
    splits: Sequence[str] = ("val", "test")


@dataclass(frozen=True)
class Table:
    """A comparison of methods.

    Attributes:
        name, title (str): name and title of the table.
        rows (Sequence[Row]): the methods, in order.
        columns (Sequence[Column]): the metrics shown.
        scales (Mapping[str, Scale]): the scales by name.
    """

    name: str
    title: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    scales: Mapping[str, Scale]


@dataclass(frozen=True)
class Run:
    """One training and its measurement.

    Attributes:
        row (Row): the method.
        seed (int): seed of weights, order and augmentation.
        scale (Scale): the size of the comparison.
        out_dir (Path): holds the folders of all runs.
        extra (Sequence[str]): KEY=VALUE that the user adds to every run.
        amp (bool): train in mixed precision.
        digest (str): hash of the config file's content, part of the settings; '' for none.
    """

    row: Row
    seed: int
    scale: Scale
    out_dir: Path
    extra: Sequence[str] = ()
    amp: bool = False
    digest: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """KEY=VALUE; the last value of a key counts."""
        seed = f"randomness.seed={self.seed}"
        return (*ONE_CHECKPOINT, *self.scale.options, *self.row.options, seed, *self.extra)

    @property
    def settings(self) -> str:
        """Everything that determines the run's result, whichever machine runs it."""
        last = {option.partition("=")[0]: option for option in self.options}
        kept = sorted(option for key, option in last.items() if not key.endswith(WITHOUT_EFFECT))
        content = [f"content={self.digest}"] if self.digest else []
        return shlex.join([self.row.config, *content, *["--amp"] * self.amp, *kept])

    @property
    def folder(self) -> Path:
        """The run's output folder."""
        return self.out_dir / self.row.slug / f"seed{self.seed}"

    @property
    def metrics(self) -> Path:
        """The JSON file of the run's metrics."""
        return self.folder / "metrics.json"

    def command(self, resume: bool = False) -> list[str]:
        """The Python arguments of the run."""
        command = [*TRAINING, self.row.config]
        command += ["--work-dir", str(self.folder), "--out", str(self.metrics)]
        flags = ["--resume"] * resume + ["--amp"] * self.amp
        return [*command, "--splits", *self.scale.splits, *flags, "--cfg-options", *self.options]

    def __str__(self) -> str:
        part = f"{self.row.part}: " if self.row.part else ""
        return f"{part}{self.row.name}, seed {self.seed}"


def runs_of(
    table: Table,
    scale: str,
    seeds: Sequence[int],
    out_dir: Path,
    extra: Sequence[str] = (),
    only: Sequence[str] = (),
    amp: bool = False,
) -> list[Run]:
    """All runs of a table, ordered by seed, so that one seed's rows are done before the next seed.

    Args:
        table (Table): the table.
        scale (str): a key of its ``scales``.
        seeds (Sequence[int]): the seeds of each row.
        out_dir (Path): holds a folder for each row and seed.
        extra, amp: see :class:`Run`.
        only (Sequence[str]): slugs of the rows to run, in order; empty for all.

    Raises:
        ConfigError: an unknown scale, or an ``only`` that is no row's slug.
    """
    if scale not in table.scales:
        raise ConfigError(
            f"--scale: {table.name} has no scale {scale!r}, but {', '.join(table.scales)}"
        )
    by_slug = {row.slug: row for row in table.rows}
    for name in only:
        if name not in by_slug:
            raise ConfigError(f"--only: no row is named {name!r}; they are {', '.join(by_slug)}")
    rows = [
        replace(row, options=(*row.options, *row.at.get(scale, ())))
        for row in map(by_slug.get, only or by_slug)
    ]
    return [
        Run(row, seed, table.scales[scale], out_dir, tuple(extra), amp)
        for seed in seeds
        for row in rows
    ]
