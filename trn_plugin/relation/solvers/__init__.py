"""Solvers for the largest canonical correlation of covariances that change slowly."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Solver", "Update"]


class Update(NamedTuple):
    """What the covariances took in since the last solution."""

    features: Tensor  # (N, d1 + d2) centred, of this process
    momentum: float
    taken: bool  # False where the covariances stayed as they were
    batches: int  # that the covariances have taken in by now
    dtype: torch.dtype  # of the features as they were given, which sets the accuracy


class Solver(Protocol):
    """Finds tau and the canonical vectors of one pair."""

    def init(self, d1: int, d2: int) -> Any:
        """State before the first solution, for tasks of these widths."""

    def solve(
        self, state: Any, s: tuple[Tensor, Tensor, Tensor], shrinkage: float, update: Update
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Any, bool]:
        r"""Solution of S11 (P, d1, d1), S12 (P, d1, d2) and S22 (P, d2, d2), state, is exact.

        The solution is tau (P,), a (P, d1) and b (P, d2) with
        :math:`a^\top (S_{11} + \epsilon v I)\, a = 1`, all 0 where nothing is related.
        """
