"""Mirroring picture and labels."""

from __future__ import annotations

import cv2

from trn_plugin.datasets.transforms._cropped import require_crop
from trn_plugin.errors import ConfigError
from trn_plugin.registry import TRANSFORMS

__all__ = ["RandomFlip"]


@TRANSFORMS.register_module()
class RandomFlip:
    """Mirror the crop left to right, and every label with it, as its `Task` says.

    Landmarks: x -> 1 - x and points change places (point i becomes what point ``flip[i]`` was);
    classes: c -> ``flip[c]``. Labels of other tasks stay as they are. Belongs after `CropResize`.

    Args:
        prob: probability of a flip.

    Raises:
        ConfigError: if ``prob`` is no probability, the transform stands before `CropResize`, or
            the data set does not say which landmarks a mirror swaps.
    """

    def __init__(self, prob: float = 0.5) -> None:
        if not isinstance(prob, (int, float)) or not 0 <= prob <= 1:
            raise ConfigError(f"RandomFlip.prob: expected a number from 0 to 1, found {prob!r}")
        self.prob = prob

    def __call__(self, results: dict) -> dict:
        require_crop(results, "RandomFlip")
        drawn = bool(results["rng"].random() < self.prob)
        results["flipped"] = drawn and "mirror" not in results.get("without", ())
        if results["flipped"]:
            results["img"] = cv2.flip(results["img"], 1)
            results["gt"] = {
                name: results["tasks"][name].mirrored(label)
                for name, label in results["gt"].items()
            }
        return results

    def __repr__(self) -> str:
        return f"RandomFlip(prob={self.prob})"
