"""Read the labels of a CSV file into arrays; errors name file, line and column."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from trn_plugin.datasets._records import LabelTable
from trn_plugin.datasets.csv_cells import Batch, Cells
from trn_plugin.errors import DataError
from trn_plugin.tasks import LabelColumns
from trn_plugin.tasks.cells import LARGEST_COORDINATE, quoted, relative_path
from trn_plugin.tasks.columns import column_numbers

__all__ = ["SPLITS", "LabelReader", "Table"]

SPLITS = ("train", "val", "test")
UNUSUAL_PATH = r"^$|^/|\.\.|[:\\]|[^ -~]"


class Table(NamedTuple):
    """The chosen rows of a file, as arrays.

    Attributes:
        paths: paths of the pictures, strings.
        lines: (N,) int32, line numbers from 1.
        labels: labels by task.
        regions: (N, 4) x0, y0, x1, y1 in pixels, NaN where missing; None without box columns.
    """

    paths: pa.ChunkedArray
    lines: np.ndarray
    labels: dict[str, LabelTable]
    regions: np.ndarray | None


class LabelReader:
    """Reads a file batch by batch.

    Args:
        dataset: a `TabularMultiTask`, whose options describe the file.

    Attributes:
        partial (Counter[str]): by task, number of rows with some of its cells but no label.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.name = os.path.basename(dataset.ann_file)
        self.partial: Counter[str] = Counter()
        self._paths: list[pa.StringArray] = []
        self._lines: list[np.ndarray] = []
        self._labels: dict[str, list] = {task: [] for task in self.dataset.labels}
        self._regions: list[np.ndarray] = []
        self._all_paths: list[pa.StringArray] = []
        self._all_rows: list[tuple[np.ndarray, np.ndarray]] = []  # line, split

    def read(self, batch: Batch) -> None:
        """Add the batch's rows of the split."""
        paths = self._checked_paths(batch)
        chosen = self._chosen(paths, batch)
        lines = batch.lines[chosen]
        cells = {name: column.take(chosen) for name, column in batch.cells.items()}

        def where(row: int) -> str:
            return f"{self.name}:{lines[row]}"

        self._paths.append(paths.take(chosen).array)
        self._lines.append(lines)
        for task, columns in self.dataset.labels.items():
            task_cells = [cells[name] for name in columns.columns]
            self._labels[task].append(self._read_task(task, columns, task_cells, where))
        if self.dataset.box_columns:
            self._regions.append(self._read_regions(cells, where))

    def table(self) -> Table:
        """All rows added so far."""
        return Table(
            pa.chunked_array(self._paths, pa.string()),
            np.concatenate([np.zeros(0, np.int32), *self._lines]),
            {task: LabelTable.concatenate(parts) for task, parts in self._labels.items()},
            np.concatenate(self._regions) if self._regions else None,
        )

    def in_two_splits(self) -> tuple[int, str, int] | None:
        """First line and path of a picture in two splits, and how many there are; None without.

        Only a ``split_column`` can put a picture in two splits.
        """
        if not self._all_rows:
            return None
        lines, splits = (np.concatenate(each) for each in zip(*self._all_rows, strict=True))
        paths = pa.concat_arrays(self._all_paths).dictionary_encode()
        picture = paths.indices.to_numpy()
        first = np.unique(picture, return_index=True)[1]
        other = splits != splits[first[picture]]
        if not other.any():
            return None
        row = int(np.argmax(other))
        return int(lines[row]), paths[row].as_py(), len(np.unique(picture[other]))

    def _checked_paths(self, batch: Batch) -> Cells:
        cells = batch.cells[self.dataset.image_column]
        unusual = np.flatnonzero(cells.matches(UNUSUAL_PATH)).tolist()
        if not unusual:
            return cells
        texts = cells.tolist()
        for row in unusual:
            where = f"{self.name}:{batch.lines[row]}"
            if not texts[row]:
                raise DataError(
                    f"{where}: expected {self.dataset.image_column} to be a path, found ''"
                )
            texts[row] = relative_path(texts[row], where)
        return Cells(texts)

    def _chosen(self, paths: Cells, batch: Batch) -> np.ndarray:
        """Rows (n,) of the split."""
        if self.dataset.split is None:
            return np.arange(len(paths))
        if self.dataset.split_column is None:
            splits = np.array([self._random_split(path) for path in paths.tolist()], dtype=object)
            return np.flatnonzero(splits == self.dataset.split)
        index, names = batch.cells[self.dataset.split_column].distinct()
        for code, name in enumerate(names):
            if name not in SPLITS:
                line = batch.lines[np.argmax(index == code)]
                raise DataError(
                    f"{self.name}:{line}: expected {self.dataset.split_column} to be one of "
                    f"{', '.join(SPLITS)}, found {quoted(name)}"
                )
        splits = np.array([SPLITS.index(name) for name in names], dtype=np.int8)[index]
        self._all_paths.append(paths.array)
        self._all_rows.append((batch.lines, splits))
        return np.flatnonzero(splits == SPLITS.index(self.dataset.split))

    def _random_split(self, path: str) -> str:
        digest = hashlib.sha256(f"{self.dataset.split_seed}:{path}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        if place < self.dataset.shares["val"]:
            return "val"
        return (
            "test" if place < self.dataset.shares["val"] + self.dataset.shares["test"] else "train"
        )

    def _read_task(
        self, task: str, columns: LabelColumns, cells: list[Cells], where: Callable[[int], str]
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Labels (n, ...) of the labelled rows, and the mask (m,) of these rows."""
        missing = np.stack([column.missing for column in cells], axis=1)
        labelled = columns.labelled(missing)
        self.partial[task] += int((~labelled & ~missing.all(axis=1)).sum())
        rows = np.flatnonzero(labelled)
        if not rows.size:
            return None, labelled
        labelled_cells = [column.take(rows) for column in cells]
        labels = columns.read_all(labelled_cells, lambda row: where(rows[row]))
        if labels.dtype.kind == "f":  # all points may be marked as missing
            empty = np.isnan(labels.reshape(len(labels), -1)).all(axis=1)
            labelled[rows[empty]] = False
            labels = labels[~empty]
        return labels, labelled

    def _read_regions(self, cells: dict[str, Cells], where: Callable[[int], str]) -> np.ndarray:
        columns = [cells[name] for name in self.dataset.box_columns]
        missing = np.all([column.missing for column in columns], axis=0)
        regions = [
            column_numbers(column, f"{name} in pixels", where, LARGEST_COORDINATE, ~missing)
            for name, column in zip(self.dataset.box_columns, columns, strict=True)
        ]
        x0, y0, x1, y1 = regions
        for row in np.flatnonzero(~missing & ~((x1 - x0 >= 1) & (y1 - y0 >= 1)))[:1]:
            raise DataError(
                f"{where(row)}: expected {' < '.join(self.dataset.box_columns[::2])} and "
                f"{' < '.join(self.dataset.box_columns[1::2])} in pixels, found the box "
                f"{', '.join(column[row] for column in columns)}"
            )
        return np.where(missing, np.nan, regions).T
