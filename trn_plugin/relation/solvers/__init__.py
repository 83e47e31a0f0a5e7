"""Solvers for the largest canonical correlation of covariances that change slowly.

- ``Exact`` solves each step anew, on any device, without host synchronisation.
- ``Davidson`` starts from the last step's solution; on the host, for wide tasks.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

__all__ = ["Batch", "Solver"]


class Batch(NamedTuple):
    """What the covariances took in since the last solution.

    Attributes:
        features (Tensor): (N, d1 + d2) centred, of this process.
        samples (int): that count, on all processes.
        momentum (float): m of the update.
        taken (bool): False where the covariances stayed as they were.
    """

    features: Tensor
    samples: int
    momentum: float
    taken: bool


class Solver(Protocol):
    """Finds tau and the canonical vectors of one pair."""

    def init(self, d1: int, d2: int) -> Any:
        """State before the first solution, for tasks of these widths."""

    def solve(
        self, state: Any, s: tuple[Tensor, Tensor, Tensor], shrinkage: float, batch: Batch
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Any, bool]:
        """Solution of S11 (1, d1, d1), S12 (1, d1, d2), S22 (1, d2, d2).

        Returns:
            tau (1,), a (1, d1) and b (1, d2); the next state; whether it was solved exactly.
        """
