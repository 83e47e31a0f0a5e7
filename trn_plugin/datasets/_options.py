"""Check the options of data sets; errors name the option."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence

import numpy as np

from trn_plugin.errors import ConfigError
from trn_plugin.tasks.cells import listing
from trn_plugin.tasks.columns import check_names

__all__ = [
    "PIXEL_CENTRE",
    "check_mmcv_transforms",
    "chosen_names",
    "excluded_augmentations",
    "factor_range",
    "input_shape",
    "pixel_shift",
    "suggestion",
]

PIXEL_CENTRE = 0.5
"""Coordinate of the centre of the first pixel, in labels, crops, exports and predictions."""

AUGMENTATIONS = ("shift", "scale", "turn", "mirror", "colour")

MMCV_LOADERS, MMCV_BASE = "mmcv.transforms.loading", "mmcv.transforms.base"  # module names
# mmpretrain's transforms that move pixels, but not points, and keep the picture's size
GEOMETRIC = ("AutoAugment", "RandAugment", "RandomTranslatePad", "Rotate", "Shear", "Translate")


def input_shape(size: int | Sequence[int], name: str) -> tuple[int, int]:
    """``size`` (one side or (height, width), in pixels) as (height, width)."""
    shape = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(shape) != 2 or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in shape
    ):
        raise ConfigError(f"{name}: expected a side or (height, width) in pixels, found {size!r}")
    return shape


def factor_range(name: str, scale: Sequence[float]) -> tuple[float, float]:
    """``scale``, (lowest, highest) positive factor, as a tuple."""
    pair = isinstance(scale, (list, tuple)) and len(scale) == 2
    pair = pair and all(isinstance(value, (int, float)) for value in scale)
    if not (pair and 0 < scale[0] <= scale[1] < math.inf):
        raise ConfigError(f"{name}: expected (lowest, highest) factor, found {scale!r}")
    return tuple(scale)


def chosen_names(key: str, names: Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """The known names that a config chooses, in its order; all for None."""
    known = tuple(known)
    for name in () if names is None else check_names(key, names):
        if name not in known:
            raise ConfigError(f"{key}: there is no {name!r}; {suggestion(name, known)}")
    return known if names is None else tuple(names)


def suggestion(name: str, known: Sequence[str]) -> str:
    """Text of a message about an unknown name: the closest known one, or all known ones."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {listing(known)}"


def excluded_augmentations(names: Sequence[str]) -> frozenset[str]:
    """The option ``without`` as a set."""
    listed = isinstance(names, (list, tuple, set, frozenset))
    if not listed or not all(name in AUGMENTATIONS for name in names):
        raise ConfigError(
            f"without: expected a list of names out of {list(AUGMENTATIONS)}, found {names!r}"
        )
    return frozenset(names)


def check_mmcv_transforms(transforms: Iterable, points: Iterable[str]) -> None:
    """Refuse mmcv transforms that give BGR, or that move pixels but not the tasks' ``points``."""
    transforms = list(transforms)
    modules = {type(t).__name__: {base.__module__ for base in type(t).__mro__} for t in transforms}
    loaders = [name for name in modules if MMCV_LOADERS in modules[name] and "Image" in name]
    if loaders and not any(getattr(each, "to_rgb", False) for each in transforms):
        raise ConfigError(
            f"pipeline: {loaders[0]} reads BGR, where RGB is expected: use LoadImage, or put "
            'dict(type="Normalize", mean=[0] * 3, std=[1] * 3, to_rgb=True) after it'
        )
    moving = [name for name in modules if name in GEOMETRIC and MMCV_BASE in modules[name]]
    for task in points if moving else ():
        raise ConfigError(
            f"pipeline: {moving[0]} moves the picture but not the points of {task}: use "
            "Albumentations"
        )


def pixel_shift(pixel_centre: float | Sequence[float]) -> np.ndarray:
    """(2,) shift of the file's points, which moves the first pixel's centre to (0.5, 0.5)."""
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
