"""Layouts of feature maps and tokens, and conversion to maps (N, C, h, w)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError
from trn_plugin.models._uncut import TOLERANCE, relative_difference, seeded, shape_of

__all__ = ["Layout", "layout_of_map", "position_dims"]


def position_dims(value: Tensor, size: tuple[int, int], nhwc: bool) -> tuple[int, int] | None:
    """The two spatial dimensions of a map (N, C, h, w) or (N, h, w, C), or None.

    The two with the aspect ratio of the pictures, whose height and width are ``size``; ``nhwc``
    tries (N, h, w, C) first.
    """
    height, width = size
    for i, j in ((1, 2), (2, 3)) if nhwc else ((2, 3), (1, 2)):
        if abs(value.shape[i] * width - value.shape[j] * height) <= max(height, width):
            return i, j
    return None


@dataclass(frozen=True)
class Layout:
    """Layout of the map before pooling."""

    dims: tuple[int, int] | None  # spatial dimensions of a map; None for tokens
    prefix: int  # number of class and register tokens before the patch tokens
    grid: tuple[int, int]  # height and width of the map

    @classmethod
    def found(cls, model, value, size: tuple[int, int]) -> Layout | None:
        """The layout of a timm model's map or tokens ``value`` for pictures of a size, or None."""
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
        """The model's map or tokens as (N, C, h, w)."""
        if self.dims is None:
            return value[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)
        return value if self.dims == (2, 3) else value.permute(0, 3, 1, 2)


def layout_of_map(name: str, model: nn.Module, probe: Tensor, value) -> Layout:
    """The layout of ``value``, a cut model's output before pooling for the pictures ``probe``.

    ``model``, the uncut model in the same mode, must give the same output.
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
