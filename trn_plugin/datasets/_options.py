"""Check the options of data sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from trn_plugin.errors import ConfigError

__all__ = [
    "PIXEL_CENTRE",
    "check_mmcv_transforms",
    "chosen_tasks",
    "excluded_augmentations",
    "factor_range",
    "input_shape",
    "pixel_shift",
]

PIXEL_CENTRE = 0.5
"""Coordinate of the centre of the first pixel, in labels, crops, exports and predictions."""

AUGMENTATIONS = ("shift", "scale", "turn", "mirror", "colour")

MMCV_LOADERS, MMCV_BASE = "mmcv.transforms.loading", "mmcv.transforms.base"  # module names
# mmpretrain's transforms that move pixels at the same picture size; points do not follow
GEOMETRIC = ("AutoAugment", "RandAugment", "RandomTranslatePad", "Rotate", "Shear", "Translate")


def input_shape(size: int | Sequence[int], name: str) -> tuple[int, int]:
    """``size`` (one side or (height, width), in pixels) as (height, width).

    Raises:
        ConfigError: any other value; the message calls it ``name``.
    """
    shape = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(shape) != 2 or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in shape
    ):
        raise ConfigError(f"{name}: expected a side or (height, width) in pixels, found {size!r}")
    return shape


def factor_range(name: str, scale: Sequence[float]) -> tuple[float, float]:
    """``scale``, (lowest, highest) positive factor, as a tuple.

    Raises:
        ConfigError: any other value; the message calls it ``name``.
    """
    pair = isinstance(scale, (list, tuple)) and len(scale) == 2
    pair = pair and all(isinstance(value, (int, float)) for value in scale)
    if not (pair and 0 < scale[0] <= scale[1] < math.inf):
        raise ConfigError(f"{name}: expected (lowest, highest) factor, found {scale!r}")
    return tuple(scale)


def chosen_tasks(owner: str, tasks: Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """The tasks that a config names, in its order; all for None.

    Args:
        owner: class name of the data set.
        tasks: option ``tasks`` of the config.
        known: names of the data set's tasks.

    Raises:
        ConfigError: anything but a list of different known names.
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


def excluded_augmentations(names: Sequence[str]) -> frozenset[str]:
    """The option ``without`` as a set.

    Raises:
        ConfigError: anything but a list of names in AUGMENTATIONS.
    """
    listed = isinstance(names, (list, tuple, set, frozenset))
    if not listed or not all(name in AUGMENTATIONS for name in names):
        raise ConfigError(
            f"without: expected a list of names out of {list(AUGMENTATIONS)}, found {names!r}"
        )
    return frozenset(names)


def check_mmcv_transforms(transforms: Iterable, points: Iterable[str]) -> None:
    """Refuse transforms of mmcv that give BGR pictures or move pixels without their points.

    Args:
        transforms: steps of a pipeline.
        points: names of the tasks that have points.

    Raises:
        ConfigError: naming the transform.
    """
    transforms = list(transforms)
    foreign = {type(t).__name__: {base.__module__ for base in type(t).__mro__} for t in transforms}
    loaders = [n for n, homes in foreign.items() if MMCV_LOADERS in homes and "Image" in n]
    if loaders and not any(getattr(each, "to_rgb", False) for each in transforms):
        raise ConfigError(
            f"pipeline: {loaders[0]} reads BGR, where RGB is expected: use LoadImage, or put "
            'dict(type="Normalize", mean=[0] * 3, std=[1] * 3, to_rgb=True) after it'
        )
    moving = [name for name, homes in foreign.items() if name in GEOMETRIC and MMCV_BASE in homes]
    for task in points if moving else ():
        raise ConfigError(
            f"pipeline: {moving[0]} moves the picture but not the points of {task}: use "
            "Albumentations"
        )


def pixel_shift(pixel_centre: float | Sequence[float]) -> np.ndarray:
    """(2,) shift of x and y that puts the centre of the first pixel at 0.5.

    Args:
        pixel_centre: coordinate of that centre in the file, a number or (x, y).

    Raises:
        ConfigError: any other value.
    """
    pair = isinstance(pixel_centre, (list, tuple)) and len(pixel_centre) == 2
    values = tuple(pixel_centre) if pair else (pixel_centre,) * 2
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ConfigError(
                "pixel_centre: expected the coordinate of the centre of the first pixel, such as "
                f"0, 0.5 or 1, or (x, y), found {pixel_centre!r}"
            )
    return PIXEL_CENTRE - np.array(values, dtype=np.float64)
