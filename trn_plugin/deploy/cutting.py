"""Read pictures and cut boxes out of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path

import numpy as np

from trn_plugin.deploy.inputs import find_inputs
from trn_plugin.errors import DataError, shown
from trn_plugin.geometry import LARGEST_BOX, crop, read_image

__all__ = ["Box", "Picture", "check_boxes", "cut_box", "cut_usable", "read_pictures"]

Box = tuple[int, int, int, int]
Picture = np.ndarray | str | Path


def read_pictures(
    given: Picture | Sequence[Picture],
) -> tuple[list[np.ndarray], list[str], list[dict[str, str]]]:
    """Pictures from arrays, files and folders, their names in messages, and the ``path`` of each.

    The third list has ``{"path": path}`` for files, {} for arrays.
    """
    if isinstance(given, (str, Path, np.ndarray)) and np.ndim(given) < 4:
        given = [given]
    if not isinstance(given, Iterable):
        raise DataError(f"images: expected pictures, files or folders, found {shown(given)}")
    images, names, paths = [], [], []
    for item in given:
        if not isinstance(item, (str, Path)):
            names.append(f"picture {len(images)}")
            images.append(item)
            paths.append({})
            continue
        inside = find_inputs([item])
        for path in (*inside.videos, *inside.left_out):
            warnings.warn(f"{path}: left out, not a picture", stacklevel=3)
        for path in inside.pictures:
            names.append(str(path))
            images.append(read_image(str(path)))
            paths.append({"path": str(path)})
    return images, names, paths


def check_boxes(boxes: Sequence[Box | None], count: int) -> None:
    """Refuse anything but one box for each of ``count`` pictures.

    Raises:
        DataError: with the number found.
    """
    if not isinstance(boxes, Sized) or len(boxes) != count:
        found = len(boxes) if isinstance(boxes, Sized) else shown(boxes)
        raise DataError(f"boxes: expected one box a picture, found {found} for {count}")


def cut_usable(
    image: np.ndarray, boxes: Iterable[Box], where: str
) -> tuple[list[Box], list[np.ndarray]]:
    """The boxes that :func:`cut_box` can cut, and their pixels; a warning names each other one."""
    usable, crops = [], []
    for box in boxes:
        try:
            crops.append(cut_box(image, box, where))
            usable.append(box)
        except DataError as error:
            warnings.warn(f"{error}; left out", stacklevel=3)
    return usable, crops


def cut_box(image: np.ndarray, box: Box | None, where: str) -> np.ndarray:
    """The pixels of a box, black outside the picture; the whole picture for None.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: (x0, y0, x1, y1) in whole pixels, x1 and y1 excluded.
        where: prefix of error messages.

    Raises:
        DataError: another kind of array, or an unusable box.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
        raise DataError(f"{where}: expected a uint8 array (H, W, 3), found {found}")
    if image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"{where}: expected a uint8 array (H, W, 3), found shape {image.shape}")
    if box is None:
        return image
    if len(box) != 4 or any(int(value) != value for value in box):
        raise DataError(f"{where}: expected a box of four whole pixels, found {tuple(box)}")
    box = tuple(int(value) for value in box)
    if (box[2] - box[0]) * (box[3] - box[1]) > LARGEST_BOX:
        raise DataError(f"{where}: box {box} is larger than {LARGEST_BOX} pixels")
    try:
        return crop(image, box)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
