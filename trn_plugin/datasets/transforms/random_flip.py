"""Mirroring picture and labels."""

from __future__ import annotations

import cv2
import numpy as np

from trn_plugin.datasets.transforms._cropped import require_crop
from trn_plugin.errors import ConfigError
from trn_plugin.registry import TRANSFORMS

__all__ = ["RandomFlip"]


@TRANSFORMS.register_module()
class RandomFlip:
    """Mirror the crop left to right, and every label with it, as the tasks' ``flip`` says.

    Landmarks: x -> 1 - x and points change places (point i becomes what point ``flip[i]`` was);
    classes: c -> ``flip[c]``. Labels of other tasks without ``flip`` stay as they are. Belongs
    after `CropResize`.

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
        results["flipped"] = bool(results["rng"].random() < self.prob)
        if results["flipped"]:
            results["img"] = cv2.flip(results["img"], 1)
            results["gt"] = {
                task: _flip(task, label, results["tasks"][task])
                for task, label in results["gt"].items()
            }
        return results

    def __repr__(self) -> str:
        return f"RandomFlip(prob={self.prob})"


def _flip(name: str, label: np.ndarray | int, task: dict) -> np.ndarray | int:
    if task["kind"] == "landmarks":
        if "flip" not in task:
            raise ConfigError(
                f"RandomFlip: the data set does not say which points of {name!r} change places in "
                "a mirror; add flip_pairs to its labels ([] if none do) or take RandomFlip out"
            )
        points = label[list(task["flip"])].copy()
        points[:, 0] = 1 - points[:, 0]
        return points
    if task["kind"] == "class" and "flip" in task:
        return task["flip"][label]
    return label
