"""Options of data sets, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from trn_plugin.errors import ConfigError

__all__ = [
    "PIXEL_CENTRE",
    "augmentations",
    "check_foreign",
    "chosen_tasks",
    "input_shape",
    "pixel_shift",
]

PIXEL_CENTRE = 0.5
"""Coordinate of the middle of a picture's first pixel here, in crops, exports and predictions."""

AUGMENTATIONS = ("shift", "scale", "turn", "mirror", "colour")

LOADERS, MMCV_BASE = "mmcv.transforms.loading", "mmcv.transforms.base"  # modules
# of mmpretrain: they leave the picture's size and tell no one
TURNING = ("AutoAugment", "RandAugment", "RandomTranslatePad", "Rotate", "Shear", "Translate")


def input_shape(size: int | Sequence[int], name: str) -> tuple[int, int]:
    """``size`` (one side or (height, width), in pixels) as (height, width).

    Raises:
        ConfigError: if it is anything else; the message quotes it under ``name``.
    """
    shape = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(shape) != 2 or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in shape
    ):
        raise ConfigError(f"{name}: expected a side or (height, width) in pixels, found {size!r}")
    return shape


def chosen_tasks(owner: str, tasks: Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """The tasks that a config names, in order; None: all.

    Args:
        owner: the data set's class.
        tasks: as given.
        known: the names that there are.

    Raises:
        ConfigError: no list of known names, each once.
    """
    if tasks is None:
        return tuple(known)
    listed = isinstance(tasks, (list, tuple)) and all(isinstance(task, str) for task in tasks)
    if not listed or not tasks:
        raise ConfigError(f"tasks: expected a list of names out of {list(known)}, found {tasks!r}")
    for task in tasks:
        if task not in known:
            raise ConfigError(f"tasks: {owner} has no task {task!r}; it has {list(known)}")
    if len(set(tasks)) < len(tasks):
        raise ConfigError(f"tasks: a task is named twice in {list(tasks)}")
    return tuple(tasks)


def augmentations(names: Sequence[str]) -> frozenset[str]:
    """What ``without`` names.

    Raises:
        ConfigError: anything but a list of what there is.
    """
    listed = isinstance(names, (list, tuple, set, frozenset))
    if not listed or not all(name in AUGMENTATIONS for name in names):
        raise ConfigError(
            f"without: expected a list of names out of {list(AUGMENTATIONS)}, found {names!r}"
        )
    return frozenset(names)


def check_foreign(transforms: Iterable, points: Iterable[str]) -> None:
    """Refuse mmcv's transforms whose pictures would not fit this package's models or labels.

    Args:
        transforms: of a pipeline.
        points: the tasks that have points.

    Raises:
        ConfigError: pictures in the order blue, green, red, or points that do not follow a turn.
    """
    transforms = list(transforms)
    foreign = {type(t).__name__: {base.__module__ for base in type(t).__mro__} for t in transforms}
    loaders = [n for n, homes in foreign.items() if LOADERS in homes and "Image" in n]
    if loaders and not any(getattr(each, "to_rgb", False) for each in transforms):
        raise ConfigError(
            f"pipeline: {loaders[0]} reads BGR, where RGB is expected: use LoadImage, or put "
            'dict(type="Normalize", mean=[0] * 3, std=[1] * 3, to_rgb=True) after it'
        )
    turning = [name for name, homes in foreign.items() if name in TURNING and MMCV_BASE in homes]
    for task in points if turning else ():
        raise ConfigError(
            f"pipeline: {turning[0]} turns the picture, and {task} would not follow: use "
            "Albumentations"
        )


def pixel_shift(pixel_centre: float | Sequence[float]) -> np.ndarray:
    """(2,): what is added to x and y of a file to make the middle of the first pixel 0.5.

    Args:
        pixel_centre: coordinate of that middle in the file, a number or (x, y).

    Raises:
        ConfigError: anything else.
    """
    pair = isinstance(pixel_centre, (list, tuple)) and len(pixel_centre) == 2
    values = tuple(pixel_centre) if pair else (pixel_centre,) * 2
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ConfigError(
                "pixel_centre: expected the coordinate of the middle of the first pixel, such as "
                f"0, 0.5 or 1, or (x, y), found {pixel_centre!r}"
            )
    return PIXEL_CENTRE - np.array(values, dtype=np.float64)
