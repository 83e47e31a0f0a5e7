"""Maps and tokens: where their positions are, their mean, and maps as (N, C, h, w)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError
from trn_plugin.models._uncut import TOLERANCE, relative_difference, seeded

__all__ = ["Layout", "layout_of_map", "position_dims", "shape_of"]


def shape_of(value) -> str:
    """The shape of a tensor, or what else it is, for messages."""
    return str(tuple(value.shape)) if torch.is_tensor(value) else type(value).__name__


def position_dims(value: Tensor, size: tuple[int, int], nhwc: bool) -> tuple[int, int] | None:
    """The two dimensions of a map's positions, whose sides are to each other as the picture's.

    Args:
        value (Tensor): a map of four dimensions; inside a model it may be laid out either way.
        size (tuple[int, int]): height and width of the picture.
        nhwc (bool): try (N, h, w, C) first.

    Returns:
        Two dimensions, or None where neither layout fits.
    """
    height, width = size
    for i, j in ((1, 2), (2, 3)) if nhwc else ((2, 3), (1, 2)):
        if abs(value.shape[i] * width - value.shape[j] * height) <= max(height, width):
            return i, j
    return None


@dataclass(frozen=True)
class Layout:
    """How a model lays out the map before pooling.

    Attributes:
        dims (tuple[int, int], optional): the dimensions of positions of a map; None for tokens.
        prefix (int): class and register tokens before those of positions.
        grid (tuple[int, int]): height and width of the map of a picture of the model's size.
    """

    dims: tuple[int, int] | None
    prefix: int
    grid: tuple[int, int]

    @classmethod
    def found(cls, model, value, size: tuple[int, int]) -> Layout | None:
        """Of ``value``, the map of pictures of ``size`` by a timm model; None where it is none."""
        if not torch.is_tensor(value) or value.ndim not in (3, 4):
            return None
        if value.ndim == 4:
            nhwc = getattr(model, "output_fmt", "NCHW") == "NHWC"
            dims = position_dims(value, size, nhwc)
            return dims and cls(dims, 0, tuple(value.shape[i] for i in dims))
        info = getattr(model, "feature_info", None)
        info = getattr(info, "info", info)
        stride = info[-1].get("reduction") if info else None
        prefix = getattr(model, "num_prefix_tokens", 0)
        for rounded in (math.floor, math.ceil) if stride else ():
            grid = tuple(rounded(side / stride) for side in size)
            if grid[0] * grid[1] == value.shape[1] - prefix:
                return cls(None, prefix, grid)
        return None

    def as_map(self, value: Tensor) -> Tensor:
        """(N, C, h, w) of what the model gives."""
        if self.dims is None:
            return value[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)
        return value if self.dims == (2, 3) else value.permute(0, 3, 1, 2)


def layout_of_map(name: str, model: nn.Module, probe: Tensor, value) -> Layout:
    """The layout of ``value``, what a cut model gives before pooling.

    Args:
        name (str): of the model.
        model (nn.Module): uncut, with the same weights and in the same mode.
        probe (Tensor): (N, C, H, W) pictures.
        value: what they become.

    Raises:
        ConfigError: it is no map, and no tokens that make one; or not what the uncut model gives.
    """
    size = tuple(probe.shape[2:])
    layout = Layout.found(model, value, size)
    if layout is None:
        raise ConfigError(
            f"model.backbone: {name} gives {shape_of(value)} before pooling, where a map or tokens "
            f"of a grid over {size} pixels are expected; no head can have input='map'"
        )
    difference = relative_difference(value, seeded(model.forward_features, probe))
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"model.backbone: the map before pooling of {name} is off by {difference:.1e} "
            "(relative; pooling changes it in place?); no head can have input='map'"
        )
    return layout
