"""The table of finished runs: a CSV file that is kept, so that no run is done twice."""

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
    """A CSV file with a row for each run and measured set.

    Part, row name and seed identify a run, and its settings must be the same. Settings leave out
    what changes no result, such as the number of workers, so that machines may share a file.

    Attributes:
        path (Path): the CSV file, which need not be there yet.
        same (Sequence[str]): columns in which all runs must agree: other labels are another
            problem.
        option (str): of the command line, which names the file or its folder.
    """

    path: Path
    same: Sequence[str] = ("labels", "weights")
    option: str = "--results"

    def rows(self) -> list[dict[str, str]]:
        """All rows, as text.

        Raises:
            ConfigError: the file cannot be read, or is no table of runs.
        """
        if not self.path.is_file():
            return []
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{self.path}: cannot be read: {error}") from error
        if any("settings" not in row for row in rows):
            raise ConfigError(
                f"{self.path}: expected the column 'settings'; name another "
                f"place with {self.option}"
            )
        return rows

    def of(self, run: Run) -> list[dict[str, str]]:
        """A run's rows; none where it is not done.

        Raises:
            ConfigError: the file has this row and seed with other settings.
        """
        key = (run.row.part, run.row.name, str(run.seed))
        rows = [row for row in self.rows() if (row["part"], row["row"], row["seed"]) == key]
        for row in rows:
            if row["settings"] != run.settings:
                raise ConfigError(
                    f"{self.path}: {run}: expected the settings {run.settings!r}, "
                    f"found {row['settings']!r}; name another place with {self.option}"
                )
        return rows

    def has(self, run: Run) -> bool:
        """Whether a run is done, with all sets that its scale measures."""
        return {row["split"] for row in self.of(run)} >= set(run.scale.splits)

    def add(self, run: Run, record: dict, seconds: float) -> None:
        """Write a finished run's rows; those of sets that were not measured again stay.

        Args:
            run: the run.
            record: what the training wrote.
            seconds: all its attempts together.

        Raises:
            ConfigError: it was measured on other labels than the file's runs, see :meth:`check`.
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
        """Refuse to compare what was measured on other labels or began from other weights.

        Raises:
            ConfigError: naming the column and its values.
        """
        for split in {row["split"] for row in rows}:
            for column in self.same:
                found = {row.get(column) or "" for row in rows if row["split"] == split}
                if len(found) > 1:
                    raise ConfigError(
                        f"{self.path}: expected runs of the same {column} ({split}), found "
                        f"{', '.join(sorted(found))}; tables need a file for each"
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
