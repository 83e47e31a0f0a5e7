"""What a table is made of: rows, scales, and a run for each row and seed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trn_plugin.errors import ConfigError

__all__ = ["Column", "Row", "Run", "Scale", "Table", "identity", "runs_of", "shell"]

ONE_CHECKPOINT = (
    "default_hooks.checkpoint.interval=1000000",  # and at the end
    "default_hooks.checkpoint.max_keep_ckpts=1",
    "save_on_sigterm=True",
)
WITHOUT_EFFECT = (
    *(option.partition("=")[0] for option in ONE_CHECKPOINT),
    *("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "cache_gb"),
)
"""Ends of the keys that change no result."""


@dataclass(frozen=True)
class Column:
    """A measured number.

    Attributes:
        key (str): as tools/test.py writes it.
        title (str): as the table shows it.
        better (int): -1 if less is better, 1 if more is, 0 if neither.
        digits (int): after the point.
    """

    key: str
    title: str
    better: int = 0
    digits: int = 2


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        name (str): as the table shows it.
        config (str): config file, from the repository's root.
        options (Sequence[str]): KEY=VALUE, what this method changes in it.
        paper (Mapping[str, float]): the paper's numbers by column key.
        baseline (str): name of the row that it is compared with; '' for none.
        part (str): the rows of a part stand together under this name.
        keys (Mapping[str, str]): by column key the metric's, where they differ.
        at (Mapping[str, Sequence[str]]): more options, by scale.
    """

    name: str
    config: str
    options: Sequence[str] = ()
    paper: Mapping[str, float] = field(default_factory=dict)
    baseline: str = ""
    part: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    at: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        kept = "".join(
            c if c.isascii() and c.isalnum() else "-" for c in f"{self.part} {self.name}".lower()
        )
        return "-".join(filter(None, kept.split("-")))


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        options (Sequence[str]): KEY=VALUE for training and testing.
        train_options (Sequence[str]): for training only.
        split (str): what is measured, 'val' or 'test'.
        about (str): what it means, in a sentence.
    """

    options: Sequence[str]
    train_options: Sequence[str]
    split: str
    about: str


@dataclass(frozen=True)
class Table:
    """A comparison of methods.

    Attributes:
        name, title (str): of the table.
        rows (Sequence[Row]): in order; a row's ``baseline`` is an earlier one.
        columns (Sequence[Column]): what is shown.
        scales (Mapping[str, Scale]): 'small' and 'paper'.
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
        seed (int): of weights, order and augmentation.
        scale (Scale): see there.
        folder (Path): for everything that the run writes.
        extra (Sequence[str]): KEY=VALUE that the user adds to every run.
        amp (bool): train in mixed precision.
    """

    row: Row
    seed: int
    scale: Scale
    folder: Path
    extra: Sequence[str] = ()
    amp: bool = False

    @property
    def shared_options(self) -> tuple[str, ...]:
        """Of the training of every row at this scale."""
        return (*ONE_CHECKPOINT, *self.scale.options, *self.scale.train_options)

    @property
    def options(self) -> tuple[str, ...]:
        """Of the tested model."""
        return (*self.scale.options, *self.row.options, *self.extra)

    @property
    def train_options(self) -> tuple[str, ...]:
        """Of the training."""
        return (
            *self.shared_options,
            *self.row.options,
            f"randomness.seed={self.seed}",
            *self.extra,
        )

    @property
    def settings(self) -> dict:
        """What makes a result this run's."""
        return {
            "config": self.row.config,
            "train_options": [*self.train_options, *["--amp"][: int(self.amp)]],
            "test_options": list(self.options),
            "split": self.scale.split,
        }

    @property
    def metrics(self) -> Path:
        """The file of results."""
        return self.folder / f"metrics_{self.scale.split}.json"

    def train_command(self, resume: bool = False) -> list[str]:
        """Arguments of the interpreter."""
        command = ["tools/train.py", self.row.config, "--work-dir", str(self.folder)]
        flags = [*["--resume"][: int(resume)], *["--amp"][: int(self.amp)]]
        return [*command, *flags, "--cfg-options", *self.train_options]

    def test_command(self, checkpoint: str | Path) -> list[str]:
        """Arguments of the interpreter."""
        command = ["tools/test.py", self.row.config, str(checkpoint)]
        command += ["--work-dir", str(self.folder / "test"), "--split", self.scale.split]
        options = ["--cfg-options", *self.options] if self.options else []
        return [*command, "--out", str(self.metrics), *options]

    def __str__(self) -> str:
        part = f"{self.row.part}: " if self.row.part else ""
        return f"{part}{self.row.name}, seed {self.seed}"


def identity(options: Sequence[str]) -> set[str]:
    """The options that change a run's result."""
    return {o for o in options if not o.partition("=")[0].endswith(WITHOUT_EFFECT)}


def shell(arguments: Sequence[str]) -> str:
    """A command line for the arguments of the interpreter."""
    return shlex.join(["python", *arguments])


def runs_of(
    table: Table,
    scale: str,
    seeds: Sequence[int],
    out_dir: Path,
    extra: Sequence[str] = (),
    only: Sequence[str] = (),
    amp: bool = False,
) -> list[Run]:
    """All runs of a table, seed by seed, so that each seed's rows are done before the next.

    Args:
        table (Table): the table.
        scale (str): a key of its ``scales``.
        seeds (Sequence[int]): of the runs.
        out_dir (Path): holds a folder for each row and seed.
        extra (Sequence[str]): KEY=VALUE added to every run.
        only (Sequence[str]): slugs of rows, or parts of slugs; all where it is empty.
        amp (bool): train in mixed precision.

    Raises:
        ConfigError: a scale that the table has not, an ``only`` that is no part of any row's slug.
    """
    if scale not in table.scales:
        raise ConfigError(
            f"--scale: {table.name} has no scale {scale!r}, but {', '.join(table.scales)}"
        )
    for text in only:
        if not any(text in row.slug for row in table.rows):
            slugs = ", ".join(row.slug for row in table.rows)
            raise ConfigError(f"--only: {text!r} is in no row's name; they are {slugs}")
    rows = [
        replace(row, options=(*row.options, *row.at.get(scale, ())))
        for row in table.rows
        if not only or any(text in row.slug for text in only)
    ]
    return [
        Run(row, seed, table.scales[scale], out_dir / row.slug / f"seed{seed}", tuple(extra), amp)
        for seed in seeds
        for row in rows
    ]
