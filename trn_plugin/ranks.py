"""Sums over the processes of torch.distributed."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["sum_over_ranks", "world_size"]


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Add up ``x`` over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x
