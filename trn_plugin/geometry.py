"""Boxes, crops and points. NumPy and OpenCV only: training and deployment share them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

import cv2
import numpy as np

from trn_plugin.errors import DataError, PictureError

__all__ = [
    "box_to_image",
    "check_box",
    "crop",
    "decode_image",
    "image_to_box",
    "jpeg_size",
    "read_bytes",
    "read_image",
    "square_box",
]

REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
LARGEST_BOX = 2**28
"""Pixels; padding a larger box would fill the memory."""

HEAD = 1 << 16  # bytes that are searched for the frame header
FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0..15, less DHT, JPG and DAC


def read_image(path: str) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 RGB: grey is repeated, EXIF rotation applied.

    Raises:
        PictureError: the file is missing or not a readable picture.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path: str) -> np.ndarray:
    """A file's content, (n,) uint8.

    Raises:
        PictureError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would block
            raise PictureError(f"{path}: cannot read the picture: it is not a regular file")
        with open(path, "rb", buffering=0) as file:
            return np.frombuffer(file.read(), dtype=np.uint8)
    except OSError as error:
        raise PictureError(f"{path}: cannot read the picture: {error.strerror or error}") from None


def decode_image(data: np.ndarray, path: str, reduction: int = 1) -> np.ndarray:
    """Decode a file's content as `read_image` does.

    Args:
        data: (n,) uint8.
        path: its name in errors.
        reduction: r = 2, 4 or 8 decodes a JPEG at 1/r of its size, (ceil(H / r), ceil(W / r), 3),
            which is faster.

    Raises:
        PictureError: it is not a readable picture.
    """
    try:
        image = cv2.imdecode(data, REDUCED[reduction]) if data.size else None
    except cv2.error:  # such as too many pixels
        image = None
    if image is None:
        raise PictureError(f"{path}: not a readable picture ({data.size} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def jpeg_size(data: np.ndarray) -> tuple[int, int] | None:
    """(width, height) in a JPEG's frame header, before EXIF rotation; None if unknown."""
    head = data[:HEAD].tobytes()
    if not head.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if marker in FRAME_MARKERS:
            height = int.from_bytes(head[at + 5 : at + 7], "big")
            return int.from_bytes(head[at + 7 : at + 9], "big"), height
        at += 2 + length
    return None


def square_box(center: Sequence[float], side: float) -> tuple[int, int, int, int]:
    """A square (x0, y0, x1, y1) in whole pixels, with a side of at least 2."""
    side = max(2, round(float(side)))
    x0, y0 = (round(float(value) - side / 2) for value in center)
    return x0, y0, x0 + side, y0 + side


def crop(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Cut ``box`` (x0, y0, x1, y1 in whole pixels) from (H, W, 3); black outside the picture.

    Raises:
        DataError: see :func:`check_box`.
    """
    check_box(box, image.shape[:2])
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    inside = image[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    pad = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
    return cv2.copyMakeBorder(inside, *pad, cv2.BORDER_CONSTANT) if any(pad) else inside


def check_box(box: tuple[int, int, int, int], shape: tuple[int, int]) -> None:
    """Check a box in a picture of ``shape`` (height, width).

    Raises:
        DataError: it is empty, too large, or wholly outside the picture.
    """
    height, width = shape
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise DataError(f"box {tuple(box)} is empty: expected x0 < x1 and y0 < y1")
    if (x1 - x0) * (y1 - y0) > LARGEST_BOX:
        raise DataError(f"box {tuple(box)} has more than {LARGEST_BOX} pixels")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise DataError(f"box {tuple(box)} lies outside the picture of {width} x {height} pixels")


def image_to_box(points: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Points (..., 2) in the picture's pixels -> fractions of the box."""
    x0, y0, x1, y1 = box
    return (points - np.array([x0, y0])) / np.array([x1 - x0, y1 - y0])


def box_to_image(points: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Points (..., 2) as fractions of the box -> the picture's pixels."""
    x0, y0, x1, y1 = box
    return points * np.array([x1 - x0, y1 - y0]) + np.array([x0, y0])
