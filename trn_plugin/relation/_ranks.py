"""Precision of the running moments, and sums over processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["sum_over_ranks", "working_dtype", "world_size"]


def working_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it: a factor of a rank-deficient moment matrix needs it."""
    return torch.float32 if device.type == "mps" else torch.float64


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Add up ``x`` over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x
