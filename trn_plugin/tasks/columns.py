"""Label columns of a CSV file."""

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
    """(N,) bool: cells without a label."""

    def __getitem__(self, row: int) -> str:
        """The cell of a row."""

    def tolist(self) -> list[str]:
        """All cells."""

    def numbers(self) -> np.ndarray:
        """(N,) float64; NaN for a cell that is not a decimal number."""

    def distinct(self) -> tuple[np.ndarray, list[str]]:
        """Distinct cells, and for each row the index (N,) of its cell among them; index first."""


class LabelColumns:
    """Reads a task's label from the cells of a row; by default one number for each column.

    Args:
        kind: of the task.
        task: name of the task.
        columns: names of the columns; default one with the task's name.

    Attributes:
        columns (tuple[str, ...]): names of the columns, in order.
        info (dict): the task as ``METAINFO['tasks']`` of a data set describes it.

    Raises:
        ConfigError: ``columns`` is not a list of names.
    """

    keys: tuple[str, ...] = ("columns",)
    """Options that a config may set."""
    columns: tuple[str, ...]
    info: dict

    def __init__(self, kind: str, task: str, columns: Sequence[str] | None = None) -> None:
        given = [task] if columns is None else columns
        self.columns = check_names(f"labels.{task}.columns", given)
        self.info = dict(kind=kind, names=self.columns)

    def read(self, cells: Sequence[str], where: str) -> Any:
        """Read the label of a labelled row, see :meth:`labelled`.

        Raises:
            DataError: names ``where`` and the column, expected and found values.
        """
        values = [
            number(cell, f"{column} to be a number", where)
            for cell, column in zip(cells, self.columns, strict=True)
        ]
        return np.array(values)

    def labelled(self, missing: np.ndarray) -> np.ndarray:
        """(N,) bool: rows with a label, from the mask (N, C) of missing cells."""
        return ~missing.any(axis=1)

    def read_all(self, cells: Sequence[CellColumn], where: Callable[[int], str]) -> np.ndarray:
        """Read the labels (N, ...) of N rows; override for speed.

        Args:
            cells: each column, at the labelled rows.
            where: maps a row to its name in errors.

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
        """Labels (N, ...), with rows that are not ``known`` (N,) read by :meth:`read`.

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
    """Check a list of names in a config.

    Raises:
        ConfigError: not a list of distinct strings; begins with the key.
    """
    if not are_names(names) or not names:
        raise ConfigError(f"{key}: expected a list of names, each once, found {names!r}")
    return tuple(names)


def two_of(key: str, pair: Sequence[str], names: Sequence[str]) -> tuple[int, int]:
    """The indices of two different names.

    Raises:
        ConfigError: not two of the names; begins with the key.
    """
    if not are_names(pair, 2):
        raise ConfigError(f"{key}: expected two names out of {list(names)}, found {pair!r}")
    for name in pair:
        if name not in names:
            raise ConfigError(f"{key}: expected two names out of {list(names)}, found {name!r}")
    return names.index(pair[0]), names.index(pair[1])


def check_flip(task: str, flip: Sequence[int] | None, count: int) -> None:
    """Check that ``flip`` is a permutation of ``count`` indices and its own inverse.

    Raises:
        ConfigError: it is not.
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
    """The flip of pairs of names: the index of each name's mirror image.

    Raises:
        ConfigError: not a list of pairs, or a name in two pairs; begins with the key.
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
