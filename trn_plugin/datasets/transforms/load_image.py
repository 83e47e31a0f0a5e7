"""Reading the picture."""

from __future__ import annotations

from trn_plugin.geometry import read_image
from trn_plugin.registry import TRANSFORMS

__all__ = ["LoadImage"]


@TRANSFORMS.register_module()
class LoadImage:
    """Read ``img_path`` into ``img``, (H, W, 3) uint8 RGB, and its (H, W) into ``ori_shape``.

    Raises:
        DataError: if the file is missing or is no readable picture.
    """

    def __call__(self, results: dict) -> dict:
        results["img"] = read_image(results["img_path"])
        results["ori_shape"] = results["img"].shape[:2]
        return results

    def __repr__(self) -> str:
        return "LoadImage()"
