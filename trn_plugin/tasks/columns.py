"""Label columns of a CSV file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trn_plugin.errors import ConfigError
from trn_plugin.tasks.cells import number

__all__ = [
    "LabelColumns",
    "are_names",
    "check_names",
    "column_numbers",
    "each_distinct",
    "flip_of",
    "two_of",
]


class LabelColumns:
    """Reads a task's label from the cells of a row; by default one number for each column.

    Args:
        kind: kind of the task.
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

    def __init__(self, kind: str, task: str, columns: Sequence[str] | None = None) -> None:
        given = [task] if columns is None else columns
        self.columns = check_names(f"labels.{task}.columns", given)
        self.info = dict(kind=kind, names=self.columns)

    def read(self, cells: Sequence[str], where: str) -> Any:
        """Read the label of a labelled row, see :meth:`labelled`.

        Raises:
            DataError: the message gives ``where``, the column, and expected and found values.
        """
        values = [
            number(cell, f"{column} to be a number", where)
            for cell, column in zip(cells, self.columns, strict=True)
        ]
        return np.array(values)

    def labelled(self, missing: np.ndarray) -> np.ndarray:
        """(N,) bool: rows with a label, from the mask (N, C) of missing cells."""
        return ~missing.any(axis=1)

    def read_all(self, cells: Sequence[Any], where: Callable[[int], str]) -> np.ndarray:
        """Read the labels (N, ...) of N rows; override for speed.

        Args:
            cells: each column at the labelled rows, a ``trn_plugin.datasets.csv_cells.Cells``.
            where: maps a row to its name in errors.

        Raises:
            DataError: see :meth:`read`.
        """
        if len(cells) == 1:
            return each_distinct(cells[0], lambda cell, place: self.read([cell], place), where)
        rows = zip(*(column.tolist() for column in cells), strict=True)
        return np.array([self.read(texts, where(row)) for row, texts in enumerate(rows)])


def each_distinct(
    cells: Any, read: Callable[[str, str], Any], where: Callable[[int], str]
) -> np.ndarray:
    """(N, ...) values of ``read(cell, where)``, called once for each distinct cell."""
    index, texts = cells.distinct()
    first = np.unique(index, return_index=True)[1].tolist()
    values = [read(text, where(row)) for text, row in zip(texts, first, strict=True)]
    return np.array(values)[index]


def column_numbers(
    cells: Any,
    name: str,
    where: Callable[[int], str],
    largest: float,
    needed: np.ndarray | bool = True,
) -> np.ndarray:
    """(N,) numbers of a column, checked by `number` where ``needed`` (N,)."""
    values = cells.numbers()
    for row in np.flatnonzero(needed & ~(np.abs(values) <= largest)).tolist():
        number(cells[row], name, where(row), largest)
    return values


def are_names(names: object, count: int | None = None) -> bool:
    """Whether ``names`` is a list of distinct strings (of length ``count``)."""
    listed = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return listed and len(set(names)) == len(names) == (len(names) if count is None else count)


def check_names(key: str, names: Sequence[str] | None) -> tuple[str, ...]:
    """Check a list of names in a config.

    Raises:
        ConfigError: not a list of distinct strings; the message begins with the key.
    """
    if not are_names(names) or not names:
        raise ConfigError(f"{key}: expected a list of names, each once, found {names!r}")
    return tuple(names)


def two_of(key: str, pair: Sequence[str], names: Sequence[str]) -> tuple[int, int]:
    """The indices of two different names.

    Raises:
        ConfigError: not two of the names; the message begins with the key.
    """
    if not are_names(pair, 2) or not set(pair) <= set(names):
        raise ConfigError(f"{key}: expected two names out of {list(names)}, found {pair!r}")
    return names.index(pair[0]), names.index(pair[1])


def flip_of(key: str, pairs: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[int, ...]:
    """The index of each name's mirror image, from the pairs that a mirror swaps.

    Raises:
        ConfigError: not a list of pairs of names; the message begins with the key.
    """
    if not isinstance(pairs, (list, tuple)):
        raise ConfigError(f"{key}: expected a list of pairs of names, found {pairs!r}")
    flip = list(range(len(names)))
    for index, pair in enumerate(pairs):
        a, b = two_of(f"{key}[{index}]", pair, names)
        flip[a], flip[b] = b, a
    return tuple(flip)
