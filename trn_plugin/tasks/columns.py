"""The columns of a CSV file that hold a task's label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from trn_plugin.errors import ConfigError
from trn_plugin.tasks.cells import number

__all__ = [
    "CellColumn",
    "LabelColumns",
    "are_names",
    "check_flip",
    "check_names",
    "flip_of",
    "two_of",
]


class CellColumn(Protocol):
    """One column of N rows of a file."""

    missing: np.ndarray
    """(N,) bool: cells that hold no label."""

    def __getitem__(self, row: int) -> str:
        """The cell of a row."""

    def tolist(self) -> list[str]:
        """All cells."""

    def numbers(self) -> np.ndarray:
        """(N,) float64; NaN for a cell that is no decimal number."""

    def distinct(self) -> tuple[np.ndarray, list[str]]:
        """(N,) index of each cell among the distinct ones, and these."""


class LabelColumns:
    """Reads a task's label from the cells of a row; by default one number from each column.

    Args:
        kind: of the task.
        task: name of the task.
        columns: names of the columns; default one with the task's name.

    Attributes:
        columns (tuple[str, ...]): their names, in order.
        info (dict): the task as ``METAINFO['tasks']`` of a data set describes it.

    Raises:
        ConfigError: columns that are no list of names.
    """

    keys: tuple[str, ...] = ("columns",)
    """What a config may give."""
    columns: tuple[str, ...]
    info: dict

    def __init__(self, kind: str, task: str, columns: Sequence[str] | None = None) -> None:
        given = [task] if columns is None else columns
        self.columns = check_names(f"labels.{task}.columns", given)
        self.info = dict(kind=kind, names=self.columns)

    def read(self, cells: Sequence[str], where: str) -> Any:
        """The label of a row that has one, see :meth:`labelled`.

        Raises:
            DataError: naming ``where``, the column, what was expected and what was found.
        """
        values = [
            number(cell, f"{column} to be a number", where)
            for cell, column in zip(cells, self.columns, strict=True)
        ]
        return np.array(values)

    def labelled(self, missing: np.ndarray) -> np.ndarray:
        """(N,) bool: rows that have a label, by which of their cells (N, C) are missing."""
        return ~missing.any(axis=1)

    def read_all(self, cells: Sequence[CellColumn], where: Callable[[int], str]) -> np.ndarray:
        """The labels (N, ...) of N rows, as :meth:`read` gives them; override it for speed.

        Args:
            cells: of each column, in rows that have a label.
            where: names a row.

        Raises:
            DataError: see :meth:`read`.
        """
        if len(cells) > 1:
            rows = zip(*(column.tolist() for column in cells), strict=True)
            return np.array([self.read(own, where(row)) for row, own in enumerate(rows)])
        index, texts = cells[0].distinct()
        first = np.unique(index, return_index=True)[1].tolist()
        labels = [self.read([text], where(row)) for text, row in zip(texts, first, strict=True)]
        return np.array(labels)[index]

    def completed(
        self,
        labels: np.ndarray,
        known: np.ndarray,
        cells: Sequence[CellColumn],
        where: Callable[[int], str],
    ) -> np.ndarray:
        """Labels (N, ...) of which those that are not ``known`` (N,) are read one by one.

        Raises:
            DataError: see :meth:`read`.
        """
        for row in np.flatnonzero(~known).tolist():
            labels[row] = self.read([column[row] for column in cells], where(row))
        return labels


def are_names(names: object, count: int | None = None) -> bool:
    """Whether ``names`` is a list of distinct strings (of length ``count``)."""
    listed = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return listed and len(set(names)) == len(names) == (len(names) if count is None else count)


def check_names(key: str, names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of a config.

    Raises:
        ConfigError: no list of texts, each once; names the key.
    """
    if not are_names(names) or not names:
        raise ConfigError(f"{key}: expected a list of names, each once, found {names!r}")
    return tuple(names)


def two_of(key: str, pair: Sequence[str], names: Sequence[str]) -> tuple[int, int]:
    """The indices of two different names.

    Raises:
        ConfigError: other than two of the names; names the key.
    """
    if not are_names(pair, 2):
        raise ConfigError(f"{key}: expected two names out of {list(names)}, found {pair!r}")
    for name in pair:
        if name not in names:
            raise ConfigError(f"{key}: expected two names out of {list(names)}, found {name!r}")
    return names.index(pair[0]), names.index(pair[1])


def check_flip(task: str, flip: Sequence[int] | None, count: int) -> None:
    """Refuse what is no pairing of indices.

    Raises:
        ConfigError: an index that does not come back by a second mirror.
    """
    if flip is None:
        return
    known = set(flip) <= set(range(count))
    if len(flip) != count or not known or any(flip[flip[i]] != i for i in range(count)):
        raise ConfigError(
            f"task {task}: expected flip, for each of {count} the index of its mirror image, found "
            f"{flip!r}"
        )


def flip_of(key: str, pairs: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[int, ...]:
    """What each becomes in a mirror: itself, or the other of its pair.

    Raises:
        ConfigError: no list of pairs of names, or a name in two of them; names the key.
    """
    if not isinstance(pairs, (list, tuple)) or isinstance(pairs, Mapping):
        raise ConfigError(f"{key}: expected a list of pairs of names, found {pairs!r}")
    flip, paired = list(range(len(names))), []
    for index, pair in enumerate(pairs):
        a, b = two_of(f"{key}[{index}]", pair, names)
        flip[a], flip[b] = b, a
        paired += [a, b]
    if len(set(paired)) < len(paired):
        raise ConfigError(f"{key}: a name is in two pairs in {[list(pair) for pair in pairs]}")
    return tuple(flip)
