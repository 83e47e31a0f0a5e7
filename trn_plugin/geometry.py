"""Boxes, crops and points. numpy and OpenCV only: training and deployment share these."""

from __future__ import annotations

import cv2
import numpy as np

from trn_plugin.errors import DataError, PictureError

__all__ = ["box_to_image", "crop", "image_to_box", "read_image", "square_box"]


def read_image(path: str) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 RGB; grey pictures are repeated, EXIF turns applied.

    Raises:
        PictureError: if the file is missing or is no readable picture.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise PictureError(f"{path}: cannot read the picture: {error.strerror or error}") from None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise PictureError(f"{path}: not a readable picture ({data.size} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def square_box(center: np.ndarray, side: float) -> tuple[int, int, int, int]:
    """The square (x0, y0, x1, y1), in whole pixels, of at least 2 pixels a side."""
    side = max(2, round(float(side)))
    x0, y0 = (round(float(value) - side / 2) for value in center)
    return x0, y0, x0 + side, y0 + side


def crop(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Cut ``box`` (x0, y0, x1, y1 in whole pixels) from (H, W, 3); black outside the picture.

    Raises:
        DataError: if the box is empty or lies wholly outside the picture.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise DataError(f"box {tuple(box)} is empty: expected x0 < x1 and y0 < y1")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise DataError(f"box {tuple(box)} lies outside the picture of {width} x {height} pixels")
    inside = image[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    pad = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
    return cv2.copyMakeBorder(inside, *pad, cv2.BORDER_CONSTANT) if any(pad) else inside


def image_to_box(points: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Points (..., 2) in the picture's pixels -> fractions of the box."""
    x0, y0, x1, y1 = box
    return (points - np.array([x0, y0])) / np.array([x1 - x0, y1 - y0])


def box_to_image(points: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Points (..., 2) as fractions of the box -> the picture's pixels."""
    x0, y0, x1, y1 = box
    return points * np.array([x1 - x0, y1 - y0]) + np.array([x0, y0])
