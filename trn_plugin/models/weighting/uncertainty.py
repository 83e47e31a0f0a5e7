"""Uncertainty weighting."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trn_plugin.registry import MODELS

__all__ = ["UncertaintyWeighting"]


@MODELS.register_module()
class UncertaintyWeighting(nn.Module):
    r"""Weights tasks by their learned noise variance (Kendall, Gal and Cipolla, CVPR 2018).

    .. math:: \mathcal{L} = \sum_t c_t e^{-s_t} \mathcal{L}_t + \frac{s_t}{2}, \quad
              s_t = \log \sigma_t^2

    where c is 1/2 for tasks of coordinates and values (their Eq. 7) and 1 for classes and
    attributes (their Eq. 10). All s start at 0, where the factor is c. Relation losses are not
    weighted.

    Args:
        shares (Mapping[str, float]): c by task; ``MultiTaskModel`` passes its heads'
            ``uncertainty_share``.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        self.shares = dict(shares)
        self.log_variance = nn.ParameterDict({task: torch.zeros(()) for task in shares})

    def forward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """0-d losses by task -> weighted losses."""
        weighted = {}
        for task, loss in losses.items():
            s = self.log_variance[task]
            weighted[task] = self.shares[task] * torch.exp(-s) * loss + s / 2
        return weighted

    def logged(self) -> dict[str, Tensor]:
        """Log entries of the current factors."""
        return {
            f"task_weight/{task}": self.shares[task] * torch.exp(-s.detach())
            for task, s in self.log_variance.items()
        }
