"""Helpers of the transforms at and after the crop."""

from __future__ import annotations

from functools import partial

import numpy as np

from trn_plugin.errors import ConfigError
from trn_plugin.geometry import image_to_box

__all__ = ["box_of", "labels_in_box", "refuse_moved_labels", "require_crop"]


def box_of(results: dict, transform: str) -> tuple[int, int, int, int]:
    """The box to cut, in pixels of ``img``.

    Another package's transform may have resized the picture, if the box is the whole picture and
    no task has points.
    """
    for key, steps in (("img", "LoadImage"), ("box", "RegionBox or FaceBox")):
        if key not in results:
            raise ConfigError(f"{transform}: put it after {steps} in the pipeline")
    box, shape = results["box"], results["img"].shape[:2]
    before = tuple(results.get("ori_shape", shape))
    if box is not None and before == shape:
        return box
    if box is not None and tuple(box) != (0, 0, *before[::-1]):
        raise _did_not_follow(transform, before, shape, "the box")
    _check_points_follow(results, transform, before)
    return (0, 0, shape[1], shape[0])


def refuse_moved_labels(results: dict, transform: str) -> None:
    """Refuse labels that did not follow another package's transform of the crop."""
    for name, label in results["gt"].items() if results.get("flip") else ():
        mirrored = results["tasks"][name].mirrored(label)
        if not np.array_equal(np.asarray(mirrored, float), np.asarray(label, float), True):
            raise ConfigError(
                f"{transform}: another package's transform mirrored the picture, and the label of "
                f"{name} did not follow; trn_plugin.RandomFlip mirrors both"
            )
    _check_points_follow(results, transform, tuple(results["crop_shape"]))


def _check_points_follow(results: dict, transform: str, before: tuple[int, int]) -> None:
    """ConfigError for points if the picture's (height, width) has changed."""
    shape = results["img"].shape[:2]
    for name, label in results["gt"].items() if shape != before else ():
        if len(results["tasks"][name].points(label)):
            raise _did_not_follow(transform, before, shape, name)


def _did_not_follow(transform: str, before, after, what: str) -> ConfigError:
    sizes = " into ".join(f"{width} x {height}" for height, width in (before, after))
    return ConfigError(
        f"{transform}: another package's transform resized a picture of {sizes} pixels, and {what} "
        "did not follow; use this package's transforms instead"
    )


def require_crop(results: dict, transform: str) -> tuple[int, int]:
    """The crop's (height, width)."""
    if "crop_shape" not in results:
        raise ConfigError(f"{transform}: put it after CropResize in the pipeline")
    return results["crop_shape"]


def labels_in_box(results: dict, rotated=None) -> dict:
    """The labels with points as fractions of ``box``, or of the ``rotated`` box."""
    fractions = rotated.fractions if rotated else partial(image_to_box, box=results["box"])
    return {
        name: results["tasks"][name].mapped(label, fractions)
        for name, label in results["gt"].items()
    }
