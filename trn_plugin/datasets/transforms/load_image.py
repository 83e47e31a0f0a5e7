"""Read the picture."""

from __future__ import annotations

import numpy as np

from trn_plugin.geometry import read_image
from trn_plugin.registry import TRANSFORMS

__all__ = ["LoadImage", "blank"]


@TRANSFORMS.register_module()
class LoadImage:
    """Read ``img_path`` into ``img``, (H, W, 3) uint8 RGB, and its (H, W) into ``ori_shape``.

    The picture of an ``unreadable`` sample is black.

    Raises:
        PictureError: the file is missing or not a readable picture.
    """

    def __call__(self, results: dict) -> dict:
        path = results["img_path"]
        results["img"] = blank(results) if "unreadable" in results else read_image(path)
        results["ori_shape"] = results["img"].shape[:2]
        return results


def blank(results: dict) -> np.ndarray:
    """A black picture that contains the sample's landmarks."""
    landmarks = results.get("landmarks")
    side = 16 if landmarks is None else max(16, int(np.max(landmarks)) + 1)
    return np.zeros((side, side, 3), dtype=np.uint8)
