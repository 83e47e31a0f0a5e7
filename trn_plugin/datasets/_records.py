"""Records that are built from arrays on access."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["LabelTable", "Records"]


class LabelTable(NamedTuple):
    """The labels of one task in all rows.

    Attributes:
        labels: (N, ...), undefined in rows without a label.
        labelled: (N,) bool.
    """

    labels: np.ndarray
    labelled: np.ndarray

    def label(self, row: int) -> np.ndarray | int | None:
        """A copy of the label of a row; None where it is missing."""
        if not self.labelled[row]:
            return None
        label = self.labels[row]
        return label.copy() if label.ndim else label.item()

    @classmethod
    def concatenate(cls, parts: Sequence[tuple[np.ndarray | None, np.ndarray]]) -> LabelTable:
        """Join parts: labels (n, ...) of the labelled rows, and the mask (m,) of these rows."""
        labelled = np.concatenate([np.zeros(0, bool), *(labelled for _, labelled in parts)])
        found = [labels for labels, _ in parts if labels is not None]
        if not found:
            return cls(np.zeros(len(labelled)), labelled)
        labels = np.zeros((len(labelled), *found[0].shape[1:]), found[0].dtype)
        labels[labelled] = np.concatenate(found)
        return cls(labels, labelled)


class Records(Sequence):
    """A sequence that builds each record on access; forked workers share its arrays.

    Args:
        make: builds the record of a row.
        rows: number of rows, or (n,) indices of some.
        tables: labels by task, for reading many rows at once.
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

    def __getitem__(self, index: int | slice) -> dict | Records:
        if isinstance(index, slice):
            return Records(self.make, self.rows[index], self.tables)
        return self.make(int(self.rows[index]))
