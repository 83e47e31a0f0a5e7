"""Regression of quantities such as age or weight."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from trn_plugin.errors import ConfigError
from trn_plugin.models.heads.base import TaskHead, distance_loss
from trn_plugin.registry import MODELS
from trn_plugin.tasks import ValueTask

__all__ = ["RegressionHead"]

COARSE = 0.01  # warn if float32 predictions are further apart, in standard deviations


@MODELS.register_module()
class RegressionHead(TaskHead):
    """Regression of quantities, each in its own unit.

    The loss standardises targets by the mean and standard deviation of the training labels, which
    the checkpoint holds. Predictions are in the labels' units.

    Args:
        num_values (int): V.
        loss (str): 'l1', 'l2' or 'smooth_l1' (quadratic below ``beta``) of the standardised
            quantities, mean over them.
        beta (float): of 'smooth_l1', in standard deviations.
        mean, std (Sequence[float], optional): replace those of the training labels.
        **options: ``loss_weight`` and ``names``, see ``TaskHead``.

    Raises:
        ConfigError: an unknown loss, or a number of names, means or standard deviations that is
            not that of values.
    """

    task_type = ValueTask
    uncertainty_share = 0.5

    def __init__(
        self,
        num_values: int,
        in_features: int,
        loss: str = "smooth_l1",
        beta: float = 0.5,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options,
    ) -> None:
        super().__init__(num_values, in_features, **options)
        if (mean is None) != (std is None):
            raise ConfigError("RegressionHead: expected mean and std, or neither")
        self.num_values = num_values
        self.distance = distance_loss("RegressionHead", loss, beta)
        self.register_buffer("mean", torch.zeros(num_values))
        # rounding error of the float32 mean; near 1e12 it is many standard deviations
        self.register_buffer("mean_rest", torch.zeros(num_values), persistent=False)
        self.register_buffer("std", torch.ones(num_values))
        if mean is None:
            self.waits_for = "mean"
        else:
            self.standardise(mean, std)

    def standardise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set means and standard deviations (V,); a standard deviation of 0 becomes 1.

        Warns if a mean is so large that float32 predictions near it are coarse.

        Raises:
            ConfigError: not V finite numbers each, or a negative standard deviation.
        """
        exact = torch.as_tensor(mean, dtype=torch.float64)
        mean, std = exact.float(), torch.as_tensor(std, dtype=torch.float32)
        shape = (self.num_values,)
        usable = mean.shape == shape and std.shape == shape and bool((std >= 0).all())
        if not usable or not torch.isfinite(mean).all() or not torch.isfinite(std).all():
            raise ConfigError(
                f"RegressionHead.mean, std: expected {self.num_values} finite numbers each, std "
                f"not negative, found {mean.tolist()} and {std.tolist()}"
            )
        self.mean.copy_(mean)
        self.mean_rest.copy_(exact - mean)
        self.std.copy_(torch.where(std > 0, std, 1.0))
        steps = np.spacing(mean.abs().cpu().numpy())
        coarse = [
            f"{name} have steps of {step:.2g}, but its standard deviation is {deviation:.2g}"
            for name, step, deviation in zip(self.task.names, steps, std.tolist(), strict=True)
            if step > COARSE * deviation > 0
        ]
        if coarse:
            print_log(
                f"RegressionHead: float32 predictions of {'; of '.join(coarse)}: subtract an "
                "offset in the CSV",
                logger="current",
                level=logging.WARNING,
            )

    def take(self, key: str, labels: np.ndarray) -> None:
        """Set the mean and standard deviation (V,) of the labels."""
        if not len(labels):
            raise ConfigError(f"{key}: not given, and the training data has no labels")
        self.standardise(labels.mean(axis=0), labels.std(axis=0))

    @property
    def spread(self) -> Tensor:
        """See ``TaskHead``."""
        return self.std

    def prepare(self, targets: Tensor, mask: Tensor) -> Tensor:
        """(N, V) in the labels' units -> standardised float32; 0 without label."""
        mean, rest, std = (x.to(targets.device) for x in (self.mean, self.mean_rest, self.std))
        return torch.where(mask[:, None], (targets - mean - rest) / std, 0.0).float()

    def sample_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """(N, V), (N, V), both standardised -> (N,)."""
        return self.distance(output, targets).mean(1)

    def predict(self, output: Tensor) -> Tensor:
        """(N, V) standardised -> (N, V) in the labels' units."""
        return output.float() * self.std + self.mean
