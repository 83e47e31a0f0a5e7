"""Landmark coordinates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trn_plugin.models.heads.base import TaskHead, distance_loss
from trn_plugin.registry import MODELS
from trn_plugin.tasks import LandmarkTask

__all__ = ["LandmarkHead"]


@MODELS.register_module()
class LandmarkHead(TaskHead):
    """Regression of points, as fractions of the crop's width and height.

    Args:
        num_points (int): P.
        loss (str): 'l1', 'l2' or 'smooth_l1' (quadratic below ``beta``), mean over coordinates.
        beta (float): of 'smooth_l1', as a fraction of the crop.
        **options: ``loss_weight`` and ``names``, see ``TaskHead``.

    Raises:
        ConfigError: an unknown loss, or a number of names that is not that of points.
    """

    task_type = LandmarkTask
    uncertainty_share = 0.5

    def __init__(
        self,
        num_points: int,
        in_features: int | None,
        loss: str = "smooth_l1",
        beta: float = 0.02,
        **options,
    ) -> None:
        super().__init__(num_points, in_features, **options)
        self.num_points = num_points
        self.distance = distance_loss(type(self).__name__, loss, beta)
        if in_features is not None:
            nn.init.constant_(self.fc.bias, 0.5)

    def sample_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """(N, 2P), (N, 2P) -> (N,)."""
        return self.distance(output, targets).mean(1)

    def predict(self, output: Tensor) -> Tensor:
        """(N, 2P) -> points (N, P, 2), fractions of the crop."""
        return output.float().unflatten(1, (self.num_points, 2))

    def in_picture(self, output: Tensor, width: int, height: int) -> Tensor:
        """(N, 2P) -> points (N, P, 2) in pixels."""
        points = self.predict(output)
        return torch.stack((points[..., 0] * width, points[..., 1] * height), dim=-1)
