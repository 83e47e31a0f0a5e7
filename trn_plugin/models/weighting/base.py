"""Task weights set by a rule instead of the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trn_plugin.ranks import sum_over_ranks, world_size

__all__ = ["RuleWeighting"]


class RuleWeighting(nn.Module):
    """Multiplies each loss by a weight, and updates the weights in each training step.

    Args:
        shares (Mapping[str, float]): its keys are the tasks; ``MultiTaskModel`` passes it.

    Attributes:
        weight (Tensor): (T,) weights of the next step, in the order of ``tasks``; 1 at the start.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        self.tasks = tuple(shares)
        self.register_buffer("weight", torch.ones(len(self.tasks)))
        self.used = self.weight

    def forward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """0-d losses by task -> weighted losses."""
        self.used = self.weight.clone()
        weighted = {t: w * losses[t] for t, w in zip(self.tasks, self.used, strict=True)}
        if self.training and torch.is_grad_enabled():
            self.update([losses[task] for task in self.tasks])
        return weighted

    def update(self, losses: list[Tensor]) -> None:
        """Set ``weight`` from the unweighted losses of a step."""
        raise NotImplementedError

    def logged(self) -> dict[str, Tensor]:
        """Log entries of the last step's weights."""
        return {f"task_weight/{t}": w for t, w in zip(self.tasks, self.used, strict=True)}


def is_number(value) -> bool:
    """Whether an option is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a detached tensor over all processes."""
    return sum_over_ranks(x.detach().clone()) / world_size()
