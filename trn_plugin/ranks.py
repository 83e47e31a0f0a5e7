"""Sums over the ranks of torch.distributed."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["sum_over_ranks", "world_size"]


def world_size() -> int:
    """Number of ranks; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum ``x`` over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x
