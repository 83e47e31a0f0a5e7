"""Dynamic weight average."""

from __future__ import annotations

from collections.abc import Mapping
from logging import Logger

import torch
from torch import Tensor

from trn_plugin.errors import ConfigError
from trn_plugin.models.weighting.base import RuleWeighting, is_number, mean_over_ranks
from trn_plugin.registry import MODELS

__all__ = ["DynamicWeightAverage"]


@MODELS.register_module()
class DynamicWeightAverage(RuleWeighting):
    r"""Larger weights for tasks whose loss falls more slowly (Liu et al., CVPR 2019).

    .. math:: w_k(t) = \frac{K \exp(r_k(t-1)/T)}{\sum_i \exp(r_i(t-1)/T)}, \quad
              r_k(t-1) = \frac{\mathcal{L}_k(t-1)}{\mathcal{L}_k(t-2)}

    L(t) is a task's mean loss in period t, an epoch in the paper. The weights are 1 in the first
    two periods and add up to the number of tasks K. A loss that is 0 (no labels of the task) or
    non-finite does not count in the mean.

    Args:
        shares: see ``RuleWeighting``.
        interval (int): training steps in a period.
        temperature (float): T; a larger one makes the weights more equal.

    Raises:
        ConfigError: ``interval`` or ``temperature`` is not positive.
    """

    def __init__(
        self, shares: Mapping[str, float], interval: int = 100, temperature: float = 2.0
    ) -> None:
        super().__init__(shares)
        if type(interval) is not int or interval < 1:
            raise ConfigError(
                f"DynamicWeightAverage.interval: expected an integer >= 1, found {interval!r}"
            )
        if not is_number(temperature) or temperature <= 0:
            raise ConfigError(
                f"DynamicWeightAverage.temperature: expected a number > 0, found {temperature!r}"
            )
        self.interval, self.temperature = interval, temperature
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("total", torch.zeros(len(self.tasks)))
        self.register_buffer("count", torch.zeros(len(self.tasks)))
        self.register_buffer("averages", torch.zeros(2, len(self.tasks)))

    def check_length(self, steps: int, logger: Logger) -> None:
        """Warn if a run of ``steps`` steps is too short for the weights to follow the losses."""
        if 3 * self.interval > steps:
            logger.warning(
                f"DynamicWeightAverage.interval: {self.interval} steps are more than a third of "
                f"the run's {steps}; the weights are 1 in the first two intervals"
            )

    @torch.no_grad()
    def update(self, losses: list[Tensor]) -> None:
        """Count a step; at the end of a period set the weights, without host synchronisation."""
        values = mean_over_ranks(torch.stack(losses))
        counts = values.isfinite() & (values != 0)
        self.steps += 1
        self.total += torch.where(counts, values, 0.0)
        self.count += counts
        ends = self.steps % self.interval == 0
        newest = torch.where(self.count > 0, self.total / self.count.clamp(min=1), self.averages[1])
        averages = torch.stack([self.averages[1], newest])
        known = (averages != 0).all()
        rates = newest / torch.where(averages[0] != 0, averages[0], 1.0)
        weight = len(self.tasks) * torch.softmax(rates / self.temperature, 0)
        self.weight.copy_(torch.where(ends & known, weight, self.weight))
        self.averages.copy_(torch.where(ends, averages, self.averages))
        self.total.copy_(torch.where(ends, 0.0, self.total))
        self.count.copy_(torch.where(ends, 0.0, self.count))
