"""Mirror picture and labels."""

from __future__ import annotations

import cv2

from trn_plugin.datasets.transforms._cropped import require_crop
from trn_plugin.errors import ConfigError
from trn_plugin.registry import TRANSFORMS

__all__ = ["RandomFlip"]


@TRANSFORMS.register_module()
class RandomFlip:
    """Mirror the crop left to right, and its labels by `Task.mirrored`.

    Landmarks: x -> 1 - x, and point i takes the place of point ``flip[i]``; classes:
    c -> ``flip[c]``. Other labels stay. Belongs after `CropResize`.

    Args:
        prob: probability of a flip.

    Raises:
        ConfigError: ``prob`` is not a probability, no `CropResize` before this step, or a data set
            that does not say which landmarks a mirror swaps.
    """

    def __init__(self, prob: float = 0.5) -> None:
        if not isinstance(prob, (int, float)) or not 0 <= prob <= 1:
            raise ConfigError(f"RandomFlip.prob: expected a number from 0 to 1, found {prob!r}")
        self.prob = prob

    def __call__(self, results: dict) -> dict:
        require_crop(results, "RandomFlip")
        flip = bool(results["rng"].random() < self.prob)
        results["flipped"] = flip and "mirror" not in results.get("without", ())
        if results["flipped"]:
            results["img"] = cv2.flip(results["img"], 1)
            results["gt"] = {
                name: results["tasks"][name].mirrored(label)
                for name, label in results["gt"].items()
            }
        return results
