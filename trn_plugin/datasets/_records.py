"""Records that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["LabelTable", "Records"]


class LabelTable(NamedTuple):
    """The labels of a task in all rows.

    Attributes:
        labels: (N, ...), anything where there is none.
        there: (N,) bool, rows that have one.
    """

    labels: np.ndarray
    there: np.ndarray

    def label(self, row: int) -> np.ndarray | int | None:
        """The label of a row, a copy; None where there is none."""
        if not self.there[row]:
            return None
        label = self.labels[row]
        return label.copy() if label.ndim else label.item()

    @classmethod
    def concatenate(cls, parts: Sequence[tuple[np.ndarray | None, np.ndarray]]) -> LabelTable:
        """A table of labels (n, ...) of the rows that have one, and (m,) which these are."""
        there = np.concatenate([there for _, there in parts])
        found = [labels for labels, _ in parts if labels is not None]
        if not found:
            return cls(np.zeros(len(there)), there)
        labels = np.zeros((len(there), *found[0].shape[1:]), found[0].dtype)
        labels[there] = np.concatenate(found)
        return cls(labels, there)


class Records(Sequence):
    """A list of records that holds none: arrays stay arrays, which forked workers share.

    Args:
        make: makes the record of a row.
        rows: how many rows there are, or which ones to take.
        tables: labels by task, for what needs those of many rows at once.
    """

    def __init__(
        self,
        make: Callable[[int], dict],
        rows: int | np.ndarray,
        tables: Mapping[str, LabelTable] | None = None,
    ) -> None:
        self.make = make
        self.rows = np.arange(rows) if isinstance(rows, int) else rows
        self.tables = tables or {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Sequence[int]) -> dict | Records:
        if isinstance(index, (int, np.integer)):
            return self.make(int(self.rows[index]))
        chosen = index if isinstance(index, slice) else np.asarray(index, dtype=int)
        return Records(self.make, self.rows[chosen], self.tables)
