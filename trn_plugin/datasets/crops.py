"""Crop boxes of an evaluation pipeline, without decoding pictures."""

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

ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that swap the sides


class EvaluationCrops(NamedTuple):
    """The crop of each record of a data set.

    Attributes:
        boxes (list): x0, y0, x1, y1 in pixels; None where there is none, for want of points or of
            the picture's size.
        about (str): how they are made, in a few words.
    """

    boxes: list[tuple[int, int, int, int] | None]
    about: str

    @classmethod
    def of(cls, records: Iterable[dict], pipeline: Sequence[dict]) -> EvaluationCrops | None:
        """Crops of an evaluation pipeline; None if it has no `FaceBox` or `RegionBox`.

        ``records`` are what the pipeline is given, as of ``results_of`` of a data set.
        """
        steps = [TRANSFORMS.build(dict(step)) for step in pipeline if _makes_box(step)]
        if not steps:
            return None
        boxes, sources = [], Counter()
        for record in records:
            box, source = cls._one(record, steps)
            boxes.append(box)
            sources[source] += box is not None
        return cls(boxes, ", ".join(source for source, count in sources.items() if count))

    @staticmethod
    def _one(results: dict, steps: Sequence) -> tuple[tuple[int, ...] | None, str]:
        try:
            for step in steps:
                step(results)
            box = results["box"]
            if box is None:
                size = picture_size(results["img_path"])
                box = None if size is None else (0, 0, *size)
        except DataError:  # of a record without points, or a picture that training leaves out
            return None, ""
        return box, results["box_source"]

    def place(self, row: int, points: np.ndarray) -> np.ndarray:
        """Points in pixels of the picture -> fractions of the crop."""
        return image_to_box(points, self.boxes[row])


def placement(
    records: Iterable[dict], pipeline: Sequence[dict], pointed: Sequence[bool]
) -> tuple[Callable | None, str]:
    """How points are placed in the crop of an evaluation, and what to say of it.

    Args:
        records: as of `EvaluationCrops.of`.
        pipeline: of the evaluation.
        pointed: which records have points.

    Returns:
        a function of a record's number and its points, or None where they stay in pixels of the
        file, and a few words.
    """
    crops = EvaluationCrops.of(records, pipeline)
    if crops is None:
        return None, "points in pixels of the file: the pipeline has no FaceBox or RegionBox"
    missing = sum(box is None for box, has in zip(crops.boxes, pointed, strict=True) if has)
    if missing:
        return None, f"points in pixels of the file: {missing} have no crop, a picture is missing"
    return crops.place, f"points relative to the crop of evaluation: {crops.about}"


def picture_size(path: str) -> tuple[int, int] | None:
    """(width, height) as it is decoded, from the file's header; None if there is no such file.

    Raises:
        DataError: a file that is no picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
    except FileNotFoundError:
        return None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable picture: {error}") from None
    return (height, width) if turned else (width, height)


def _makes_box(step: dict) -> bool:
    kind = step.get("type")
    kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, (FaceBox, RegionBox))
