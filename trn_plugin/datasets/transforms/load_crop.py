"""Reading, cutting and resizing in one step, for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from trn_plugin.datasets.base import input_shape
from trn_plugin.datasets.transforms._cache import GIB, CachedPicture, PictureCache
from trn_plugin.datasets.transforms._cropped import labels_in_box
from trn_plugin.datasets.transforms.load_image import blank
from trn_plugin.errors import ConfigError
from trn_plugin.geometry import check_box, crop, decode_image, jpeg_size, read_bytes
from trn_plugin.registry import TRANSFORMS

__all__ = ["LoadCrop"]

REDUCTIONS = (8, 4, 2, 1)
Box = tuple[int, int, int, int]


@TRANSFORMS.register_module()
class LoadCrop:
    """Read ``img_path``, cut ``box`` and resize it: ``img`` becomes (H, W, 3) uint8 RGB.

    Takes the place of `LoadImage` and `CropResize` in training pipelines, behind `FaceBox`. The
    picture is the same within a grey level, as it is rounded to whole ones: evaluation and the
    exported model, which do not round, keep those two.

    Args:
        size: side, or (height, width), in pixels; None takes the data set's ``input_size``.
        reduced: decode a JPEG at 1/2, 1/4 or 1/8 of its size where the box then still has at
            least ``size`` pixels each way. The box is moved to whole pixels of the reduced
            picture, each edge by at most half a one, and the labels with it. Faster, and a
            little smoother or sharper than the pictures of evaluation.
        cache_gb: GiB of memory, for each process that trains, in which what was decoded is kept
            for the next epochs: the crop, or where the box is drawn anew each time, the picture.
            It changes no picture. 0 keeps nothing.

    Raises:
        ConfigError: if there is no usable size, or no box.
        PictureError: if the file is missing or is no readable picture.
        DataError: if the box lies outside the picture.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        reduced: bool = False,
        cache_gb: float = 0.0,
    ) -> None:
        self.size = None if size is None else input_shape(size, "LoadCrop.size")
        if isinstance(cache_gb, bool) or not isinstance(cache_gb, (int, float)) or cache_gb < 0:
            raise ConfigError(f"LoadCrop.cache_gb: expected a number of GiB, found {cache_gb!r}")
        self.reduced = bool(reduced)
        self.cache = PictureCache(int(cache_gb * GIB)) if cache_gb else None

    def open(self, count: int) -> None:
        """Make ready for a data set of ``count`` samples, before workers are started."""
        if self.cache is not None:
            self.cache.open(len(REDUCTIONS) * count)

    def __call__(self, results: dict) -> dict:
        shape = self.size or results.get("input_size")
        if shape is None:
            raise ConfigError("LoadCrop: give its size, or input_size to the data set")
        if "box" not in results:
            raise ConfigError("LoadCrop: put it after FaceBox in the pipeline")
        if "unreadable" in results:
            image = blank(results)
            picture = CachedPicture(image, 1, image.shape[:2])
            crop_of = _crop(picture, results["box"], shape)
        else:
            picture, crop_of = self._load(results, shape)
        results["img"], results["box"] = crop_of
        results["ori_shape"] = picture.ori_shape
        results["crop_shape"] = shape
        results["gt"] = labels_in_box(results)
        return results

    def _load(self, results: dict, shape: tuple[int, int]) -> tuple[CachedPicture, tuple]:
        path, box = results["img_path"], results["box"]
        if self.cache is None:
            picture = self._read(path, box, shape)
            return picture, _crop(picture, box, shape)
        number = len(REDUCTIONS) * results["sample_idx"]
        if not results["box_drawn"]:
            kept = self.cache.get(number)
            if kept is not None:
                return kept, (kept.image.copy(), _snapped(box, kept))
            picture = self._read(path, box, shape)
            image, box = _crop(picture, box, shape)
            self.cache.put(number, picture._replace(image=image))
            return picture, (image, box)
        number += REDUCTIONS.index(self._reduction(box, shape))
        picture = self.cache.get(number)
        if picture is None:
            picture = self._read(path, box, shape)
            self.cache.put(number, picture)
        return picture, _crop(picture, box, shape)

    def _read(self, path: str, box: Box | None, shape: tuple[int, int]) -> CachedPicture:
        data = read_bytes(path)
        size = jpeg_size(data) if self.reduced else None
        if size is not None:
            # a whole picture may yet be turned
            reduction = self._reduction(box or (0, 0, min(size), min(size)), shape)
            image = decode_image(data, path, reduction)
            for width, height in (size, size[::-1]):
                if image.shape[:2] == (-(-height // reduction), -(-width // reduction)):
                    return CachedPicture(image, reduction, (height, width))
        image = decode_image(data, path)
        return CachedPicture(image, 1, image.shape[:2])

    def _reduction(self, box: Box, shape: tuple[int, int]) -> int:
        """The largest that leaves the box at least ``shape`` pixels."""
        x0, y0, x1, y1 = box
        fits = (r for r in REDUCTIONS if (y1 - y0) >= r * shape[0] and (x1 - x0) >= r * shape[1])
        return next(fits, 1) if self.reduced else 1

    def __repr__(self) -> str:
        cache_gb = 0 if self.cache is None else self.cache.capacity / GIB
        return f"LoadCrop(size={self.size}, reduced={self.reduced}, cache_gb={cache_gb:g})"


def _crop(
    picture: CachedPicture, box: Box | None, shape: tuple[int, int]
) -> tuple[np.ndarray, Box]:
    """The box's pixels at ``shape``, and the box as it was taken."""
    box = _snapped(box, picture)
    check_box(box, picture.ori_shape)
    inside = crop(picture.image, tuple(edge // picture.reduction for edge in box))
    return _resize(inside, shape), box


def _snapped(box: Box | None, picture: CachedPicture) -> Box:
    """The box (None: the whole picture) with its edges on those of the reduced picture's pixels."""
    if box is None:
        box = (0, 0, *picture.ori_shape[::-1])
    r = picture.reduction
    return tuple((edge + r // 2) // r * r for edge in box)


def _resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """As `resize`, rounded: PyTorch's antialiased bilinear on whole grey levels is faster."""
    if image.shape[:2] == shape:
        return image.copy()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    pixels = functional.interpolate(
        pixels, size=shape, mode="bilinear", antialias=True, align_corners=False
    )
    return np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())
