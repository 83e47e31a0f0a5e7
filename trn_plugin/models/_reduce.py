"""Reductions that give with several ranks what one process with the whole batch gives."""

from __future__ import annotations

import torch
from torch import Tensor

from trn_plugin.ranks import sum_over_ranks, world_size

__all__ = ["mean_over_labelled"]


def mean_over_labelled(losses: Tensor, mask: Tensor, shares: Tensor | None = None) -> Tensor:
    """Mean of ``losses`` (N,) over the samples of ``mask`` (N,) on all ranks.

    ``shares`` (N,) says how much of each label there is, where not all: a sample counts as much.

    Each rank divides its own sum by the mean count of a rank, so that the average of the ranks,
    which DistributedDataParallel takes of the gradients, is the mean over all labelled samples.
    No labelled sample at all gives 0.
    """
    labelled = mask.sum() if shares is None else torch.where(mask, shares, 0.0).sum()
    count = sum_over_ranks(labelled.to(losses.dtype)) / world_size()
    return torch.where(mask, losses, 0.0).sum() / count.clamp(min=1e-6)
