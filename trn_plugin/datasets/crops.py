"""Compute the boxes of an evaluation pipeline without decoding pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from PIL import Image

from trn_plugin.datasets.transforms import FaceBox, RegionBox
from trn_plugin.errors import DataError
from trn_plugin.geometry import image_to_box
from trn_plugin.registry import TRANSFORMS

__all__ = ["picture_size", "placement"]

EXIF_ORIENTATION, SIDES_SWAPPED = 0x0112, (5, 6, 7, 8)  # EXIF tag; values that swap the sides


def placement(
    records: Iterable[dict], pipeline: Sequence[dict], has_points: Sequence[bool]
) -> tuple[Callable | None, str]:
    """How to place points in the crops of an evaluation.

    Args:
        records: from ``results_of`` of a data set.
        pipeline: the evaluation pipeline.
        has_points: which records have points.

    Returns:
        A function that maps a record's index and its points in pixels to fractions of the crop, or
        None if points stay in pixels of the file; and a description.
    """
    steps = [TRANSFORMS.build(dict(step)) for step in pipeline if _makes_box(step)]
    if not steps:
        return None, "points in pixels of the file: the pipeline has no FaceBox or RegionBox"
    boxes, sources = zip(*(_box_of(record, steps) for record in records), strict=True)
    missing = sum(box is None for box, has in zip(boxes, has_points, strict=True) if has)
    if missing:
        return None, f"points in pixels of the file: {missing} crops unknown for lack of a picture"
    about = ", ".join(dict.fromkeys(filter(None, sources)))
    return (
        lambda row, points: image_to_box(points, boxes[row]),
        f"points relative to the crop of evaluation: {about}",
    )


def _box_of(results: dict, steps: Sequence) -> tuple[tuple[int, ...] | None, str]:
    """The box and its source; the box is None without points or without a picture."""
    try:
        for step in steps:
            step(results)
        box = results["box"]
        if box is None:
            size = picture_size(results["img_path"])
            box = None if size is None else (0, 0, *size)
    except DataError:  # a record without points, or an unreadable picture
        return None, ""
    return box, results["box_source"] if box is not None else ""


def picture_size(path: str) -> tuple[int, int] | None:
    """(width, height) of the decoded picture, from the file's header; None if it is missing.

    Raises:
        DataError: the file is not a picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION) in SIDES_SWAPPED
    except FileNotFoundError:
        return None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable picture: {error}") from None
    return (height, width) if turned else (width, height)


def _makes_box(step: dict) -> bool:
    kind = step.get("type")
    kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, (FaceBox, RegionBox))
