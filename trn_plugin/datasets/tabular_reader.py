"""Read the labels of a CSV file into arrays."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trn_plugin.datasets._records import LabelTable
from trn_plugin.datasets.csv_cells import Batch, Cells, Strings
from trn_plugin.errors import DataError
from trn_plugin.tasks import LabelColumns, Task
from trn_plugin.tasks.cells import LARGEST_COORDINATE, coordinate, quoted, relative_path

__all__ = ["SPLITS", "LabelReader", "Table"]

SPLITS = ("train", "val", "test")
UNUSUAL_PATH = r"^$|^/|\.\.|[:\\]|[^ -~]"


class Table(NamedTuple):
    """The chosen rows of a file, as arrays.

    Attributes:
        paths: paths of the pictures.
        lines: (N,) int32, line numbers from 1.
        labels: labels by task.
        regions: (N, 4) x0, y0, x1, y1 in pixels, NaN where missing; None without box columns.
    """

    paths: Strings
    lines: np.ndarray
    labels: dict[str, LabelTable]
    regions: np.ndarray | None

    def shifted(self, tasks: Mapping[str, Task], shift: np.ndarray) -> Table:
        """This table, with ``shift`` (2,) added to all points of its labels in place."""
        if not shift.any():
            return self
        for name, (labels, labelled) in self.labels.items():
            if tasks[name].has_points and labelled.any():
                labels[labelled] = tasks[name].shifted(labels[labelled], shift)
        return self


@dataclass
class LabelReader:
    """Reads a file batch by batch.

    Args:
        name: the file's name, for errors.
        labels: columns by task.
        image_column, box_columns, split, split_column, shares, split_seed: see `TabularMultiTask`.

    Attributes:
        partial (Counter[str]): by task, number of rows with some of its cells but no label.
    """

    name: str
    labels: Mapping[str, LabelColumns]
    image_column: str
    box_columns: Sequence[str]
    split: str | None
    split_column: str | None
    shares: Mapping[str, float]
    split_seed: int

    def __post_init__(self) -> None:
        self.name = os.path.basename(self.name)
        self.partial: Counter[str] = Counter()
        self._paths: list[Strings] = []
        self._lines: list[np.ndarray] = []
        self._labels: dict[str, list] = {task: [] for task in self.labels}
        self._regions: list[np.ndarray] = []
        self._all_paths: list[Strings] = []
        self._all_rows: list[tuple[np.ndarray, ...]] = []  # line, split, hash of the path

    def read(self, batch: Batch) -> None:
        """Add the batch's rows of the split.

        Raises:
            DataError: naming file, line and column of an unusable cell.
        """
        paths = self._checked_paths(batch)
        chosen = self._chosen(paths, batch)
        lines = batch.lines[chosen]
        cells = {name: column.take(chosen) for name, column in batch.cells.items()}

        def where(row: int) -> str:
            return f"{self.name}:{lines[row]}"

        self._paths.append(paths.take(chosen).strings())
        self._lines.append(lines)
        for task, columns in self.labels.items():
            own = [cells[name] for name in columns.columns]
            self._labels[task].append(self._read_task(task, columns, own, where))
        if self.box_columns:
            self._regions.append(self._read_regions(cells, where))

    def table(self) -> Table:
        """All rows added so far."""
        if not self._lines:
            return Table(
                Strings(np.zeros(0, np.uint8), np.zeros(1, np.int64)), np.zeros(0), {}, None
            )
        return Table(
            Strings.concatenate(self._paths),
            np.concatenate(self._lines),
            {task: LabelTable.concatenate(parts) for task, parts in self._labels.items()},
            np.concatenate(self._regions) if self.box_columns else None,
        )

    def in_two_splits(self) -> tuple[int, str, int]:
        """First line and path of a picture that is in two splits, and how many there are."""
        if not self._all_rows:
            return 0, "", 0
        lines, splits, keys = (np.concatenate(each) for each in zip(*self._all_rows, strict=True))
        _, first, picture = np.unique(keys, return_index=True, return_inverse=True)
        other = splits != splits[first[picture]]
        if not other.any():
            return 0, "", 0
        row = int(np.argmax(other))
        path = Strings.concatenate(self._all_paths).text(row)
        return int(lines[row]), path, len(np.unique(picture[other]))

    def _checked_paths(self, batch: Batch) -> Cells:
        cells = batch.cells[self.image_column]
        unusual = np.flatnonzero(cells.matches(UNUSUAL_PATH)).tolist()
        if not unusual:
            return cells
        texts = cells.tolist()
        for row in unusual:
            where = f"{self.name}:{batch.lines[row]}"
            if not texts[row]:
                raise DataError(f"{where}: expected {self.image_column} to be a path, found ''")
            texts[row] = relative_path(texts[row], where)
        return Cells(texts)

    def _chosen(self, paths: Cells, batch: Batch) -> np.ndarray:
        """Rows (n,) of the split."""
        if self.split is None:
            return np.arange(len(paths))
        if self.split_column is None:
            splits = np.array([self._random_split(path) for path in paths.tolist()], dtype=object)
            return np.flatnonzero(splits == self.split)
        index, names = batch.cells[self.split_column].distinct()
        for number, name in enumerate(names):
            if name not in SPLITS:
                line = batch.lines[np.argmax(index == number)]
                raise DataError(
                    f"{self.name}:{line}: expected {self.split_column} to be one of "
                    f"{', '.join(SPLITS)}, found {quoted(name)}"
                )
        splits = np.array([SPLITS.index(name) for name in names], dtype=np.int8)[index]
        keys = np.array([hash(path) for path in paths.tolist()], dtype=np.int64)
        self._all_paths.append(paths.strings())
        self._all_rows.append((batch.lines, splits, keys))
        return np.flatnonzero(splits == SPLITS.index(self.split))

    def _random_split(self, path: str) -> str:
        digest = hashlib.sha256(f"{self.split_seed}:{path}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        if place < self.shares["val"]:
            return "val"
        return "test" if place < self.shares["val"] + self.shares["test"] else "train"

    def _read_task(
        self, task: str, columns: LabelColumns, cells: list[Cells], where: Callable[[int], str]
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Labels (n, ...) of the labelled rows, and (m,) bool, which rows these are."""
        missing = np.stack([column.missing for column in cells], axis=1)
        labelled = columns.labelled(missing)
        self.partial[task] += int((~labelled & ~missing.all(axis=1)).sum())
        rows = np.flatnonzero(labelled)
        if not rows.size:
            return None, labelled
        own = [column.take(rows) for column in cells]
        labels = columns.read_all(own, lambda row: where(rows[row]))
        if labels.dtype.kind == "f":  # all points may be marked as missing
            empty = np.isnan(labels.reshape(len(labels), -1)).all(axis=1)
            labelled[rows[empty]] = False
            labels = labels[~empty]
        return labels, labelled

    def _read_regions(self, cells: dict[str, Cells], where: Callable[[int], str]) -> np.ndarray:
        own = [cells[name] for name in self.box_columns]
        missing = np.stack([column.missing for column in own], axis=1).all(axis=1)
        regions = np.stack([column.numbers() for column in own], axis=1)
        usable = (np.abs(regions) <= LARGEST_COORDINATE).all(axis=1)
        usable &= (regions[:, :2] < regions[:, 2:]).all(axis=1)
        for row in np.flatnonzero(~usable & ~missing)[:1]:
            raise self._region_error([column[row] for column in own], where(row))
        return np.where(missing[:, None], np.nan, regions)

    def _region_error(self, cells: list[str], where: str) -> DataError:
        for cell, column in zip(cells, self.box_columns, strict=True):
            coordinate(cell, f"{column} in pixels", where)
        return DataError(
            f"{where}: expected {' < '.join(self.box_columns[::2])} and "
            f"{' < '.join(self.box_columns[1::2])}, found the box {', '.join(cells)}"
        )
