"""The CSV file of finished runs; a run in it is not repeated."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trn_plugin.errors import ConfigError
from trn_plugin.experiments.plan import Run
from trn_plugin.files import write_table

__all__ = ["Results", "numbers"]


@dataclass(frozen=True)
class Results:
    """The CSV file of results, with one row for each run and measured set.

    A run is in the file if part, row name, seed and settings agree. Settings leave out options
    that do not change results, so that several machines can share a file.

    Attributes:
        path (Path): the CSV file, created when the first run is finished.
        same (Sequence[str]): columns in which all runs must agree; only runs with the same labels
            and initial weights can be compared.
        option (str): the command-line option that sets the path, for messages.
    """

    path: Path
    same: Sequence[str] = ("labels", "weights")
    option: str = "--results"

    def rows(self) -> list[dict[str, str]]:
        """All rows, with values as text.

        Raises:
            ConfigError: the file is not a table of runs.
        """
        if not self.path.is_file():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if any("settings" not in row for row in rows):
            raise ConfigError(
                f"{self.path}: expected the column 'settings'; choose another "
                f"place with {self.option}"
            )
        return rows

    def of(self, run: Run) -> list[dict[str, str]]:
        """The rows of a run; empty if it is not finished.

        Raises:
            ConfigError: the file has this row and seed with other settings.
        """
        key = (run.row.part, run.row.name, str(run.seed))
        rows = [row for row in self.rows() if (row["part"], row["row"], row["seed"]) == key]
        for row in rows:
            if row["settings"] != run.settings:
                raise ConfigError(
                    f"{self.path}: {run}: expected the settings {run.settings!r}, "
                    f"found {row['settings']!r}; choose another place with {self.option}"
                )
        return rows

    def has(self, run: Run) -> bool:
        """Whether a run is finished, with all sets of its scale measured."""
        return {row["split"] for row in self.of(run)} >= set(run.scale.splits)

    def add(self, run: Run, record: dict, seconds: float) -> None:
        """Add the rows of a finished run to the file; they replace earlier ones of the same sets.

        Args:
            run: the run.
            record: the content of the run's ``metrics.json``.
            seconds: training time of all attempts together.

        Raises:
            ConfigError: its labels differ from those of the file's runs, see :meth:`check`.
        """
        about = {key: record.get(key) for key in ("device", "torch", "commit", "weights")}
        new = [
            {
                **dict(part=run.row.part, row=run.row.name, seed=run.seed, split=split),
                **dict(box=record["box"][split], labels=record["labels"][split], seconds=seconds),
                **about,
                **metrics,
                "settings": run.settings,
            }
            for split, metrics in record["metrics"].items()
        ]
        with self._locked():
            replaced = [row for row in self.of(run) if row["split"] in record["metrics"]]
            kept = [row for row in self.rows() if row not in replaced]
            self.check([*kept, *new])
            write_table(self.path, [*kept, *new], option=self.option)

    def check(self, rows: Sequence[Mapping]) -> None:
        """Refuse to compare runs with different labels or different initial weights.

        Raises:
            ConfigError: names the column and its values.
        """
        for split in {row["split"] for row in rows}:
            for column in self.same:
                found = {row.get(column) or "" for row in rows if row["split"] == split}
                if len(found) > 1:
                    raise ConfigError(
                        f"{self.path}: expected runs of the same {column} ({split}), found "
                        f"{', '.join(sorted(found))}; use a separate file for each"
                    )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if os.name != "posix":
            yield
            return
        import fcntl

        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def numbers(row: dict[str, str]) -> dict[str, float]:
    """The metrics of a row."""
    return {key: float(value) for key, value in row.items() if "/" in key and value}
