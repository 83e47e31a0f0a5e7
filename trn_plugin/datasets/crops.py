"""Boxes of an evaluation pipeline, without decoding pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from trn_plugin.datasets.transforms import FaceBox, RegionBox
from trn_plugin.errors import DataError
from trn_plugin.geometry import image_to_box
from trn_plugin.registry import TRANSFORMS

__all__ = ["EvaluationCrops", "picture_size", "placement"]

EXIF_ORIENTATION, SIDES_SWAPPED = 0x0112, (5, 6, 7, 8)  # tag, and its values of turned pictures


class EvaluationCrops(NamedTuple):
    """The crop of each record of a data set.

    Attributes:
        boxes (list): x0, y0, x1, y1 in pixels; None without points or without a picture.
        about (str): how the boxes are made, in a few words.
    """

    boxes: list[tuple[int, int, int, int] | None]
    about: str

    @classmethod
    def of(cls, records: Iterable[dict], pipeline: Sequence[dict]) -> EvaluationCrops | None:
        """Crops of an evaluation pipeline; None if it has no `FaceBox` or `RegionBox`.

        ``records`` come from ``results_of`` of a data set.
        """
        steps = [TRANSFORMS.build(dict(step)) for step in pipeline if _makes_box(step)]
        if not steps:
            return None
        boxes, sources = [], Counter()
        for record in records:
            box, source = cls._box_of(record, steps)
            boxes.append(box)
            sources[source] += box is not None
        return cls(boxes, ", ".join(source for source, count in sources.items() if count))

    @staticmethod
    def _box_of(results: dict, steps: Sequence) -> tuple[tuple[int, ...] | None, str]:
        try:
            for step in steps:
                step(results)
            box = results["box"]
            if box is None:
                size = picture_size(results["img_path"])
                box = None if size is None else (0, 0, *size)
        except DataError:  # a record without points, or an unreadable picture
            return None, ""
        return box, results["box_source"]

    def place(self, row: int, points: np.ndarray) -> np.ndarray:
        """Points in pixels of the picture as fractions of the crop."""
        return image_to_box(points, self.boxes[row])


def placement(
    records: Iterable[dict], pipeline: Sequence[dict], has_points: Sequence[bool]
) -> tuple[Callable | None, str]:
    """How to place points in the crops of an evaluation.

    Args:
        records: from ``results_of`` of a data set.
        pipeline: the evaluation pipeline.
        has_points: which records have points.

    Returns:
        A function of a record's index and its points, or None if points stay in pixels of the
        file; and a description.
    """
    crops = EvaluationCrops.of(records, pipeline)
    if crops is None:
        return None, "points in pixels of the file: the pipeline has no FaceBox or RegionBox"
    missing = sum(box is None for box, has in zip(crops.boxes, has_points, strict=True) if has)
    if missing:
        return None, f"points in pixels of the file: pictures are missing, {missing} crops unknown"
    return crops.place, f"points relative to the crop of evaluation: {crops.about}"


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
