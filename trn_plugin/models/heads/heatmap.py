"""Landmarks as the centres of heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError
from trn_plugin.models.heads.landmark import LandmarkHead
from trn_plugin.registry import MODELS

__all__ = ["HeatmapLandmarkHead", "soft_argmax"]


def soft_argmax(heatmaps: Tensor) -> Tensor:
    """The mean position under the softmax of each heatmap: logits (N, P, h, w) -> (N, P, 2).

    x and y are fractions of the map's width and height: the centre of cell (i, j) of h x w is at
    x = (j + 1/2) / w, y = (i + 1/2) / h, as for pixels in this package's coordinates. The result is
    at least float32, also under autocast.

    References:
        Sun et al., Integral Human Pose Regression, ECCV 2018; Nibali et al., Numerical Coordinate
        Regression with Convolutional Neural Networks, 2018.
    """
    height, width = heatmaps.shape[2:]
    with torch.autocast(heatmaps.device.type, enabled=False):
        heatmaps = heatmaps.to(torch.promote_types(heatmaps.dtype, torch.float32))
        shares = heatmaps.flatten(2).softmax(2).unflatten(2, (height, width))
        x, y = (
            (torch.arange(side, device=shares.device, dtype=shares.dtype) + 0.5) / side
            for side in (width, height)
        )
        return torch.stack(((shares.sum(2) * x).sum(2), (shares.sum(3) * y).sum(2)), dim=2)


@MODELS.register_module()
class HeatmapLandmarkHead(LandmarkHead):
    """Points as the centres of heatmaps, trained on coordinates without target heatmaps.

    ``upsample`` deconvolutions with batch norm and ReLU each double the size of the map before
    pooling (Xiao et al., ECCV 2018). A 1x1 convolution gives a heatmap for each point, and
    :func:`soft_argmax` its coordinates. Raw output, losses, predictions and labels are those of
    ``LandmarkHead``. Points lie between the centres of the outermost cells: with 16 cells a side,
    between 3 and 97 % of the crop.

    Args:
        num_points (int): P.
        in_features (int): channels of the map.
        upsample (int): number of deconvolutions; 2 turn the 4 x 4 cells of a trunk of stride 32
            with 112 pixels into 16 x 16.
        channels (int): channels of the upsampled maps.
        **options: see ``LandmarkHead``.

    Raises:
        ConfigError: an unknown loss, a number of names that is not that of points, or an invalid
            ``upsample`` or ``channels``.
    """

    input = "map"

    def __init__(
        self,
        num_points: int,
        in_features: int,
        upsample: int = 2,
        channels: int = 128,
        **options,
    ) -> None:
        super().__init__(num_points, None, **options)
        for name, value, least in (("upsample", upsample, 0), ("channels", channels, 1)):
            if type(value) is not int or value < least:
                raise ConfigError(
                    f"HeatmapLandmarkHead.{name}: expected an integer >= {least}, found {value!r}"
                )
        layers: list[nn.Module] = []
        for _ in range(upsample):
            doubled = nn.ConvTranspose2d(in_features, channels, 4, 2, padding=1, bias=False)
            layers += [doubled, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            in_features = channels
        self.upsample = nn.Sequential(*layers)
        self.heatmap = nn.Conv2d(in_features, num_points, 1)
        nn.init.trunc_normal_(self.heatmap.weight, std=0.01)
        nn.init.zeros_(self.heatmap.bias)

    def heatmaps(self, features: Tensor) -> Tensor:
        """(N, in_features, h, w) -> logits (N, P, 2^upsample h, 2^upsample w)."""
        return self.heatmap(self.upsample(features))

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_features, h, w) -> coordinates (N, 2P), fractions of the crop."""
        return soft_argmax(self.heatmaps(features)).flatten(1)
