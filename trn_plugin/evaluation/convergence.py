"""Convergence of the online task similarity to the offline one (the paper's Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from trn_plugin.relation import TaskRelationLayer

__all__ = ["NEEDED_PER_FEATURE", "OnlineRun", "effective_sample_size", "online_similarity"]

NEEDED_PER_FEATURE = 5
"""Effective samples per feature (d1 + d2); with fewer, tau is mostly chance."""


@dataclass
class OnlineRun:
    """An online estimate: ``tau`` (K,) after each batch."""

    tau: np.ndarray

    def arrival(self, target: float, tolerance: float) -> int | None:
        """The batch, from 1, after which tau stays within ``tolerance`` of ``target``.

        None if tau leaves that range in the last quarter.
        """
        away = np.flatnonzero(np.abs(self.tau - target) > tolerance)
        last = int(away[-1]) if away.size else -1
        return None if last >= len(self.tau) - self.settled.size else last + 2

    @property
    def settled(self) -> np.ndarray:
        """tau in the last quarter."""
        return self.tau[-math.ceil(len(self.tau) / 4) :]


def effective_sample_size(batch_size: int, momentum: float) -> float:
    """The limit of the effective sample size of running covariances, batch (1+m)/(1-m)."""
    return batch_size * (1 + momentum) / (1 - momentum)


def online_similarity(
    f1: np.ndarray,
    f2: np.ndarray,
    batch_size: int,
    momentum: float,
    iterations: int,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> OnlineRun:
    """Stream the features of a fixed network through a `TaskRelationLayer`, epoch after epoch.

    Args:
        f1: (N, d1) features of one task.
        f2: (N, d2) of the other, of the same samples.
        batch_size: of the stream; each epoch is shuffled, and its incomplete batch dropped.
        momentum: m of Algorithm 1.
        iterations: number of batches.
        seed: of the shuffling.
        progress: called after each batch.
    """
    x1, x2 = (torch.from_numpy(np.ascontiguousarray(f)) for f in (f1, f2))
    layer, generator = TaskRelationLayer(momentum), torch.Generator().manual_seed(seed)
    waiting: list[torch.Tensor] = []
    tau: list[float] = []
    for _ in range(iterations):
        if not waiting:
            order = torch.randperm(len(x1), generator=generator)
            waiting = list(order[: len(x1) - len(x1) % batch_size].split(batch_size))
        batch = waiting.pop()
        with torch.no_grad():
            tau.append(float(layer(x1[batch], x2[batch])))
        progress()
    return OnlineRun(np.array(tau))
