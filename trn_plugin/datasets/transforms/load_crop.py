"""Read, crop and resize in one step, for training."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from trn_plugin.datasets._options import factor_range, input_shape
from trn_plugin.datasets.transforms._cache import GIB, CachedPicture, PictureCache
from trn_plugin.datasets.transforms._cropped import labels_in_box
from trn_plugin.datasets.transforms.load_image import blank
from trn_plugin.errors import ConfigError
from trn_plugin.geometry import check_box, crop, decode_image, jpeg_size, read_bytes
from trn_plugin.registry import TRANSFORMS

__all__ = ["LoadCrop"]

REDUCTIONS = (8, 4, 2, 1)
Box = tuple[int, int, int, int]


class RotatedBox(NamedTuple):
    """A box in the picture's pixels: its centre and the vectors of its sides."""

    x: float
    y: float
    across: tuple[float, float]
    along: tuple[float, float]

    def fractions(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in the picture's pixels as fractions of the box."""
        (ax, ay), (bx, by) = self.across, self.along  # orthogonal
        a2, b2 = ax * ax + ay * ay, bx * bx + by * by
        sides = np.array([[ax / a2, bx / b2], [ay / a2, by / b2]])
        return (points - (self.x, self.y)) @ sides + 0.5


@TRANSFORMS.register_module()
class LoadCrop:
    """Read ``img_path``, cut ``box`` and resize it: ``img`` becomes (H, W, 3) uint8 RGB.

    Replaces `LoadImage` and `CropResize` after `FaceBox` in training pipelines. The crop is rounded
    to whole grey levels. Evaluation and the exported model do not round, so they use those two.

    ``rotate``, ``scale`` and ``shift`` sample a rotated, scaled and shifted box each time. The crop
    is one bilinear warp of the picture, so its corners show the picture around the box, not black.
    Landmarks follow; ``box`` stays the upright one.

    Args:
        size: side, or (height, width), in pixels; None takes the data set's ``input_size``.
        rotate: largest rotation in either direction, in degrees.
        scale: (lowest, highest) factor of the box's sides.
        shift: largest shift of the box along each axis, as a fraction of its sides.
        reduced: decode a JPEG at 1/2, 1/4 or 1/8 of its size if the box keeps at least ``size``
            pixels. The box is snapped to the reduced picture's pixels, and its labels follow.
            Faster; crops are slightly smoother or sharper than in evaluation.
        cache_gb: GiB of memory per training process for decoded crops (decoded pictures if the box
            is sampled), reused in later epochs. Changes no sample; 0 disables the cache.

    Raises:
        ConfigError: an unusable value, or no size or no box.
        PictureError: the file is missing or not a readable picture.
        DataError: the box lies outside the picture.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        rotate: float = 0.0,
        scale: Sequence[float] = (1.0, 1.0),
        shift: float = 0.0,
        reduced: bool = False,
        cache_gb: float = 0.0,
    ) -> None:
        self.size = None if size is None else input_shape(size, "LoadCrop.size")
        self.rotate = _checked_number("rotate", rotate, 180)
        self.shift = _checked_number("shift", shift, 0.5)
        self.scale = factor_range("LoadCrop.scale", scale)
        self.warps = bool(rotate or shift or self.scale != (1.0, 1.0))
        self.reduced = bool(reduced)
        cache_gb = _checked_number("cache_gb", cache_gb, math.inf)
        self.cache = PictureCache(int(cache_gb * GIB)) if cache_gb else None

    def open(self, count: int) -> None:
        """Allocate the cache for ``count`` samples, before workers start."""
        if self.cache is not None:
            self.cache.open(len(REDUCTIONS) * count)

    def __call__(self, results: dict) -> dict:
        shape = self.size or results.get("input_size")
        if shape is None:
            raise ConfigError("LoadCrop: set its size, or input_size of the data set")
        if "box" not in results:
            raise ConfigError("LoadCrop: put it after FaceBox in the pipeline")
        results.setdefault("box_sampled", True)  # boxes of other transforms
        caches_crop = not (self.warps or results["box_sampled"])  # else the picture
        key = self._cache_key(results, shape)
        cached = None if key is None else self.cache.get(key)
        picture = cached or self._read(results, shape)
        box = results["box"] = _snapped(results["box"], picture)
        check_box(box, picture.ori_shape)
        results["ori_shape"], results["crop_shape"] = picture.ori_shape, shape
        if self.warps:
            rotated = self._sampled_box(box, results["rng"], results.get("without", ()))
            results["img"] = _warp(picture, rotated, shape)
            results["gt"] = labels_in_box(results, rotated)
        else:
            from_cache = cached and caches_crop
            results["img"] = cached.image.copy() if from_cache else _cut(picture, box, shape)
            results["gt"] = labels_in_box(results)
        if key is not None and cached is None:
            self.cache.put(key, picture._replace(image=results["img"]) if caches_crop else picture)
        return results

    def _cache_key(self, results: dict, shape: tuple[int, int]) -> int | None:
        """Cache key of a sample at its reduction; None if it is not to be cached."""
        if self.cache is None or "unreadable" in results:
            return None
        key = len(REDUCTIONS) * results["sample_idx"]
        if results["box_sampled"]:
            key += REDUCTIONS.index(self._reduction(results["box"], shape))
        return key

    def _read(self, results: dict, shape: tuple[int, int]) -> CachedPicture:
        if "unreadable" in results:
            image = blank(results)
            return CachedPicture(image, 1, image.shape[:2])
        path, box = results["img_path"], results["box"]
        data = read_bytes(path)
        size = jpeg_size(data) if self.reduced else None
        if size is not None:
            # EXIF may swap the sides: a whole picture takes the shorter one for both
            reduction = self._reduction(box or (0, 0, min(size), min(size)), shape)
            image = decode_image(data, path, reduction)
            for width, height in (size, size[::-1]):
                if image.shape[:2] == (-(-height // reduction), -(-width // reduction)):
                    return CachedPicture(image, reduction, (height, width))
        image = decode_image(data, path)
        return CachedPicture(image, 1, image.shape[:2])

    def _reduction(self, box: Box, shape: tuple[int, int]) -> int:
        """The largest reduction that leaves the box at least ``shape`` pixels."""
        if not self.reduced:
            return 1
        x0, y0, x1, y1 = box
        fits = (r for r in REDUCTIONS if (y1 - y0) >= r * shape[0] and (x1 - x0) >= r * shape[1])
        return next(fits, 1)

    def _sampled_box(
        self, box: Box, rng: np.random.Generator, without: Collection[str]
    ) -> RotatedBox:
        """The box with a random rotation, scale and shift."""
        turn, factor, right, down = rng.random(4).tolist()
        angle = 0.0 if "turn" in without else math.radians(self.rotate * (2 * turn - 1))
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * factor
        factor = 1.0 if "scale" in without else factor
        right, down = (0.5, 0.5) if "shift" in without else (right, down)
        x0, y0, x1, y1 = box
        width, height = factor * (x1 - x0), factor * (y1 - y0)
        return RotatedBox(
            x=(x0 + x1) / 2 + self.shift * (2 * right - 1) * (x1 - x0),
            y=(y0 + y1) / 2 + self.shift * (2 * down - 1) * (y1 - y0),
            across=(width * math.cos(angle), width * math.sin(angle)),
            along=(-height * math.sin(angle), height * math.cos(angle)),
        )


def _checked_number(name: str, value: float, highest: float) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= highest:
        raise ConfigError(f"LoadCrop.{name}: expected 0 to {highest:g}, found {value!r}")
    return value


def _cut(picture: CachedPicture, box: Box, shape: tuple[int, int]) -> np.ndarray:
    """The box's pixels resized to ``shape``, as by `resize` but rounded."""
    image = crop(picture.image, tuple(edge // picture.reduction for edge in box))
    if image.shape[:2] == shape:
        return image.copy()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    # functional.interpolate(..., antialias=True) without its overhead; faster on uint8
    pixels = torch.ops.aten._upsample_bilinear2d_aa(pixels, shape, False, None, None)
    return np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())


def _warp(picture: CachedPicture, box: RotatedBox, shape: tuple[int, int]) -> np.ndarray:
    """The rotated box's pixels resized to ``shape``, black outside the picture."""
    height, width = shape
    image, r, origin = picture.image, picture.reduction, (0, 0)
    finer = int(min(math.hypot(*box.across) / width, math.hypot(*box.along) / height) / r)
    if finer > 1:
        image, origin = _downscaled(image, box, r, finer)
        r *= finer
    (ax, ay), (bx, by) = box.across, box.along
    # affine map from pixel indices (column, row) of the crop to those of the picture
    columns, rows = 0.5 / width - 0.5, 0.5 / height - 0.5
    x = (box.x + columns * ax + rows * bx - origin[0]) / r - 0.5
    y = (box.y + columns * ay + rows * by - origin[1]) / r - 0.5
    width_r, height_r = width * r, height * r
    matrix = np.array([[ax / width_r, bx / height_r, x], [ay / width_r, by / height_r, y]])
    return cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def _downscaled(image: np.ndarray, box: RotatedBox, reduction: int, factor: int):
    """The picture around the rotated box at 1 / factor, and its origin in the full picture."""
    x = (abs(box.across[0]) + abs(box.along[0])) / 2
    y = (abs(box.across[1]) + abs(box.along[1])) / 2
    x0, y0 = (max(int((low / reduction) - factor), 0) for low in (box.x - x, box.y - y))
    x1 = min(int((box.x + x) / reduction) + 2 * factor, image.shape[1])
    y1 = min(int((box.y + y) / reduction) + 2 * factor, image.shape[0])
    width, height = max((x1 - x0) // factor, 1), max((y1 - y0) // factor, 1)
    inside = image[y0 : y0 + height * factor, x0 : x0 + width * factor]
    small = cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA)
    return small, (x0 * reduction, y0 * reduction)


def _snapped(box: Box | None, picture: CachedPicture) -> Box:
    """The box (None: the whole picture) with edges on pixel edges of the reduced picture."""
    if box is None:
        box = (0, 0, *picture.ori_shape[::-1])
    r = picture.reduction
    return box if r == 1 else tuple((edge + r // 2) // r * r for edge in box)
