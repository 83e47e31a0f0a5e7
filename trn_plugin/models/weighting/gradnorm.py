"""GradNorm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError
from trn_plugin.models.weighting.base import RuleWeighting, is_number, mean_over_ranks
from trn_plugin.registry import MODELS

__all__ = ["GradNorm"]


@MODELS.register_module()
class GradNorm(RuleWeighting):
    r"""Equal gradient norms of the tasks, larger for slower tasks (Chen et al., ICML 2018).

    .. math:: \mathcal{L}_{grad} = \sum_i \left| G_i - \bar{G} r_i^\alpha \right|, \quad
              G_i = \lVert \nabla_W w_i \mathcal{L}_i \rVert, \quad
              r_i = \frac{\mathcal{L}_i / \mathcal{L}_i(0)}{\text{mean of these}}

    W is the weight of the last shared layer, and L(0) the first loss. Each training step takes a
    gradient descent step on L_grad, whose derivative is closed-form, and scales the weights to add
    up to the number of tasks. L_grad is divided by the mean of G, so that the learning rate does
    not depend on the losses' units. A task with loss 0 (no labels) is left out of that step. Each
    task costs a backward pass down to W.

    Args:
        shares: see ``RuleWeighting``.
        alpha (float): 0 gives equal gradient norms; larger values favour slow tasks.
        lr (float): learning rate of the weights.
        least (float): the smallest weight before scaling; keeps weights positive.

    Raises:
        ConfigError: a negative number, or the tasks share no trained layer.
    """

    differentiates_often = True

    def __init__(
        self,
        shares: Mapping[str, float],
        alpha: float = 1.5,
        lr: float = 0.025,
        least: float = 1e-3,
    ) -> None:
        super().__init__(shares)
        for name, value in dict(alpha=alpha, lr=lr, least=least).items():
            if not is_number(value) or value < 0:
                raise ConfigError(f"GradNorm.{name}: expected a number >= 0, found {value!r}")
        self.alpha, self.lr, self.least = alpha, lr, least
        self.register_buffer("first", torch.zeros(len(self.tasks)))
        self._layer: tuple[Tensor, ...] = ()  # a tuple, so that it is not registered as parameter

    def connect(self, trunk: nn.Module) -> None:
        """Set W to the last trained weight matrix or kernel of the trunk."""
        weights = [p for p in trunk.parameters() if p.requires_grad and p.ndim > 1]
        if not weights:
            raise ConfigError(
                "model.task_weighting: GradNorm needs a trained layer that the tasks share; see "
                "model.backbone.shared_stages and frozen_stages"
            )
        self._layer = (weights[-1],)

    def update(self, losses: list[Tensor]) -> None:
        """One step on L_grad."""
        found = [self._gradient(loss) for loss in losses]
        norms = mean_over_ranks(torch.stack(found)).flatten(1).norm(dim=1)
        values = mean_over_ranks(torch.stack(losses))
        fine = values.isfinite() & norms.isfinite()
        self.first.copy_(torch.where((self.first == 0) & fine, values, self.first))
        counts = fine & (values != 0) & (norms > 0) & (self.first != 0)
        pulls = torch.where(counts, self.weight * norms, 0.0)
        ratios = torch.where(counts, values / torch.where(counts, self.first, 1.0), 0.0)
        number = counts.sum().clamp(min=1)
        mean = pulls.sum() / number
        rates = ratios / (ratios.sum() / number).clamp(min=1e-12)
        slope = torch.sign(pulls - mean * rates**self.alpha) * torch.where(counts, norms, 0.0)
        moved = self.weight - self.lr * slope / mean.clamp(min=1e-12)
        moved = moved.clamp(min=self.least)
        self.weight.copy_(moved * len(self.tasks) / moved.sum())

    def _gradient(self, loss: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, self._layer, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ConfigError(
                "model.task_weighting: GradNorm needs a last layer that all tasks share; set the "
                "same model.backbone.shared_stages for all"
            )
        return gradient
