"""What transforms at and behind the crop share."""

from __future__ import annotations

from functools import partial

from trn_plugin.errors import ConfigError
from trn_plugin.geometry import image_to_box

__all__ = ["labels_in_box", "require_crop"]


def require_crop(results: dict, transform: str) -> tuple[int, int]:
    """The crop's (height, width).

    Raises:
        ConfigError: before `CropResize`, where landmarks are not yet fractions of the crop.
    """
    if "crop_shape" not in results:
        raise ConfigError(f"{transform}: put it after CropResize in the pipeline")
    return results["crop_shape"]


def labels_in_box(results: dict, turned=None) -> dict:
    """The labels with points as fractions of ``box``, or of the ``turned`` one."""
    fractions = turned.fractions if turned else partial(image_to_box, box=results["box"])
    return {
        name: results["tasks"][name].mapped(label, fractions)
        for name, label in results["gt"].items()
    }
