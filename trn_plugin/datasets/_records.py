"""Records that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Records"]


class Records(Sequence):
    """A list of records that holds none: arrays stay arrays, which forked workers share.

    Args:
        make: makes the record of a row.
        rows: how many rows there are, or which ones to take.
    """

    def __init__(self, make: Callable[[int], dict], rows: int | np.ndarray) -> None:
        self.make = make
        self.rows = np.arange(rows) if isinstance(rows, int) else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Sequence[int]) -> dict | Records:
        if isinstance(index, (int, np.integer)):
            return self.make(int(self.rows[index]))
        chosen = index if isinstance(index, slice) else np.asarray(index, dtype=int)
        return Records(self.make, self.rows[chosen])
