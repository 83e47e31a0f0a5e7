"""Reductions whose result does not depend on the number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from trn_plugin.ranks import sum_over_ranks, world_size

__all__ = ["mean_over_labelled"]


def mean_over_labelled(losses: Tensor, mask: Tensor, shares: Tensor | None = None) -> Tensor:
    """Mean of ``losses`` (N,) over the samples of ``mask`` (N,) on all ranks; 0 if there are none.

    Each rank divides its own sum by the mean count per rank. DistributedDataParallel averages the
    gradients over the ranks, which gives the mean over all labelled samples.

    ``shares`` (N,) weights each sample by the present fraction of its label.
    """
    labelled = mask.sum() if shares is None else torch.where(mask, shares, 0.0).sum()
    count = sum_over_ranks(labelled.to(losses.dtype)) / world_size()
    return torch.where(mask, losses, 0.0).sum() / count.clamp(min=1e-6)
