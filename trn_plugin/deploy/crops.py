"""The crop that a model was trained on, and the same crop around a detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trn_plugin.geometry import square_box

__all__ = ["crop_around", "describe_crop", "whole_pictures_note"]

WHOLE, POINTS, GIVEN = "whole", "points", "given"
MARGIN = 1.2
"""Side of the square crop, in longer sides of the detection, if no points define the crop."""


def describe_crop(box: str, factor: float | None = None) -> dict:
    """The entry ``crop`` of a file's metadata.

    Args:
        box: 'whole' for whole pictures; 'points' for a square around the points' bounding box;
            'given' for boxes from columns of a file.
        factor: for 'points', side of the square over the longer side of that bounding box.
    """
    texts = {
        WHOLE: "the whole picture that the labels belong to",
        POINTS: "a square around the middle of the points' bounding box, its side "
        f"{factor or 0:.3g} times the longer side of that box",
        GIVEN: "the box that the labels' file gives for each object",
    }
    described = {"box": box, "text": texts[box]}
    return described if factor is None else {**described, "factor": factor}


def whole_pictures_note(path: str, crop: Mapping | None) -> str:
    """A warning if the model at ``path`` was trained on crops and gets whole pictures; else "".

    Args:
        path: the model's file.
        crop: ``crop`` of the metadata, may be None.
    """
    if (crop or {}).get("box", WHOLE) == WHOLE:
        return ""
    return f"{path} was trained on crops, {crop['text']}, but gets whole pictures here"


def crop_around(
    crop: Mapping | None, box: Sequence[float], points: np.ndarray | None = None
) -> tuple[int, int, int, int]:
    """The crop for a detected object, in whole pixels.

    Args:
        crop: ``crop`` of the metadata, may be None.
        box: x0, y0, x1, y1 of the detection, in pixels.
        points: (P, 2) of the detection, such as eyes, nose and mouth corners.

    Returns:
        tuple: for 'points', the training square around ``points``, if the detector gives them; for
        'given', ``box``; else a square around ``box``, 1.2 times its longer side.
    """
    x0, y0, x1, y1 = map(float, box)
    kind = (crop or {}).get("box")
    if kind == POINTS and points is not None and len(points) > 1:
        low, high = np.min(points, axis=0), np.max(points, axis=0)
        return square_box((low + high) / 2, float(max(high - low)) * crop["factor"])
    if kind == GIVEN:
        return round(x0), round(y0), max(round(x1), round(x0) + 1), max(round(y1), round(y0) + 1)
    return square_box(((x0 + x1) / 2, (y0 + y1) / 2), MARGIN * max(x1 - x0, y1 - y0))
