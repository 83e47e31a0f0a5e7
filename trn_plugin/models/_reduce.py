"""Reductions that give with several ranks what one process with the whole batch gives."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["mean_over_labelled"]


def mean_over_labelled(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``losses`` (N,) over the samples of ``mask`` (N,) on all ranks.

    Each rank divides its own sum by the mean count of a rank, so that the average of the ranks,
    which DistributedDataParallel takes of the gradients, is the mean over all labelled samples.
    No labelled sample at all gives 0.
    """
    count = mask.sum().to(losses.dtype)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return torch.where(mask, losses, 0.0).sum() / count.clamp(min=1e-6)
