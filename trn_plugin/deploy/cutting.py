"""Read pictures, crop boxes from them, and resize the crops."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trn_plugin.deploy.inputs import Box, find_inputs
from trn_plugin.errors import DataError
from trn_plugin.geometry import crop, read_image

__all__ = ["Picture", "Place", "cut_box", "cut_places", "read_pictures", "resized"]

Picture = np.ndarray | str | Path


class Place(NamedTuple):
    """A box to predict in a picture.

    Attributes:
        box (Box | None): None is the whole picture.
        name (str): name in messages.
        order (int | None): position among the results; None is the next one.
    """

    box: Box | None
    name: str
    order: int | None = None


def read_pictures(
    given: Picture | Sequence[Picture],
) -> tuple[list[np.ndarray], list[str], list[dict[str, str]]]:
    """Pictures from arrays, files and folders, their names in messages, and the ``path`` of each.

    The third list has ``{"path": path}`` for files, {} for arrays.
    """
    if isinstance(given, (str, Path, np.ndarray)) and np.ndim(given) < 4:
        given = [given]
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
        for path in map(str, inside.pictures):
            names.append(path)
            images.append(read_image(path))
            paths.append({"path": path})
    return images, names, paths


def cut_places(
    image: np.ndarray, places: Iterable[Place]
) -> tuple[list[Place], list[np.ndarray], list[tuple[DataError, list[Place]]]]:
    """The places that :func:`cut_box` can cut, their pixels, and the errors of the others."""
    usable, crops, problems = [], [], []
    for place in places:
        try:
            crops.append(cut_box(image, place.box, place.name))
            usable.append(place)
        except DataError as error:
            problems.append((error, [place]))
    return usable, crops, problems


def cut_box(image: np.ndarray, box: Box | None, where: str) -> np.ndarray:
    """The pixels of a box, black outside the picture; the whole picture for None.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: (x0, y0, x1, y1) in whole pixels, x1 and y1 excluded.
        where: prefix of error messages.

    Raises:
        DataError: another kind of array, or an unusable box.
    """
    is_array = isinstance(image, np.ndarray)
    if not is_array or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        found = f"{image.dtype} {image.shape}" if is_array else type(image)
        raise DataError(f"{where}: expected a uint8 array (H, W, 3), found {found}")
    if box is None:
        return image
    if len(box) != 4 or any(int(value) != value for value in box):
        raise DataError(f"{where}: expected a box of four whole pixels, found {tuple(box)}")
    try:
        return crop(image, tuple(map(int, box)))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize pictures (N, H, W, 3) uint8 to (N, height, width, 3), as exported files do."""
    rows, columns = map(_resize_weights, images.shape[1:3], size)
    channels_first = images.transpose(0, 3, 1, 2).astype(np.float32)
    found = rows @ channels_first @ columns.T
    return found.round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _resize_weights(side: int, size: int) -> np.ndarray:
    """Weights (size, side) of an antialiased bilinear resize along one axis, float32.

    The triangle filter, as in :func:`trn_plugin.deploy.model.resize_weights`.
    """
    scale = side / size
    centers = (np.arange(size) + 0.5) * scale
    distances = np.abs(np.arange(side) + 0.5 - centers[:, None]) / max(scale, 1.0)
    weights = np.maximum(1 - distances, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
