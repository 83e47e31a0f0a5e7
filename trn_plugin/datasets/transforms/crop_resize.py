"""Cut the box and resize it as the exported model does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from trn_plugin.datasets._options import input_shape
from trn_plugin.datasets.transforms._cropped import box_of, labels_in_box
from trn_plugin.errors import ConfigError
from trn_plugin.geometry import crop
from trn_plugin.registry import TRANSFORMS

__all__ = ["Crop", "CropResize", "resize"]


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, C) uint8 to ``shape`` (height, width), antialiased bilinear, as float32.

    Not rounded, as in the exported model: rounding can turn a last-bit difference between two
    implementations into a whole grey level.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    pixels = functional.interpolate(
        pixels, size=shape, mode="bilinear", antialias=True, align_corners=False
    )
    return pixels[0].permute(1, 2, 0).contiguous().numpy()


@TRANSFORMS.register_module()
class CropResize:
    """Cut ``box`` out of ``img``, black outside the picture, and resize to (H, W, 3) float32.

    Landmarks become fractions of the box; ``crop_shape`` is (height, width).

    Args:
        size: side, or (height, width), in pixels; None takes the data set's ``input_size``.

    Raises:
        ConfigError: no usable size, or no box that fits the picture.
        DataError: the box lies outside the picture.
    """

    def __init__(self, size: int | Sequence[int] | None = None) -> None:
        self.size = None if size is None else input_shape(size, "CropResize.size")

    def __call__(self, results: dict) -> dict:
        shape = self.size or results.get("input_size")
        if shape is None:
            raise ConfigError("CropResize: set its size, or input_size of the data set")
        results["box"] = box_of(results, "CropResize")
        results["img"] = resize(crop(results["img"], results["box"]), shape)
        results["crop_shape"] = shape
        results["gt"] = labels_in_box(results)
        return results


@TRANSFORMS.register_module()
class Crop:
    """Cut ``box`` out of ``img``, black outside the picture: (h, w, 3) uint8 of the box's size.

    For exported models, which resize by themselves. Landmarks become fractions of the box.

    Raises:
        ConfigError: no box that fits the picture.
        DataError: the box lies outside the picture.
    """

    def __call__(self, results: dict) -> dict:
        results["box"] = box_of(results, "Crop")
        results["img"] = crop(results["img"], results["box"])
        results["crop_shape"] = results["img"].shape[:2]
        results["gt"] = labels_in_box(results)
        return results
