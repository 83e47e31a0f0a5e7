"""Cache of decoded pictures in memory that forked data-loader workers share."""

from __future__ import annotations

import mmap
import multiprocessing
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

__all__ = ["CachedPicture", "PictureCache"]

GIB = 1 << 30


class CachedPicture(NamedTuple):
    """A picture, its JPEG reduction, and the (height, width) of the whole file."""

    image: np.ndarray
    reduction: int
    ori_shape: tuple[int, int]


class PictureCache:
    """Pictures by number, without eviction.

    Every picture is read once an epoch, so eviction would save nothing. Memory is used only as the
    cache fills. Processes forked after `open` share it; a pickled copy
    (in spawned workers) or a deep copy is empty and closed.

    Args:
        capacity: size in bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = int(capacity)
        self._memory = None

    def open(self, count: int) -> None:
        """Allocate the memory for pictures 0 to ``count`` - 1; a closed cache stores nothing."""
        self._lock = multiprocessing.get_context("fork").Lock()
        self._memory = np.frombuffer(mmap.mmap(-1, max(self.capacity, 1)), dtype=np.uint8)
        # offset + 1 (0: absent), height, width, reduction, height and width of the file
        table = mmap.mmap(-1, 8 * 6 * (count + 1))
        self._table = np.frombuffer(table, dtype=np.int64).reshape(count + 1, 6)
        self._used = self._table[-1]  # bytes used, whether full, number of pictures

    def get(self, number: int) -> CachedPicture | None:
        """A cached picture, not to be modified; None if absent."""
        if self._memory is None:
            return None
        with self._lock:
            offset, height, width, reduction, *ori_shape = self._table[number].tolist()
        if not offset:
            return None
        pixels = self._memory[offset - 1 : offset - 1 + height * width * 3]
        return CachedPicture(pixels.reshape(height, width, 3), reduction, tuple(ori_shape))

    def put(self, number: int, picture: CachedPicture) -> None:
        """Store a picture (H, W, 3) uint8, unless it is present or does not fit."""
        if self._memory is None:
            return
        image = picture.image
        with self._lock:
            start, full = self._used[:2].tolist()
            if self._table[number, 0] or full:
                return
            if start + image.size > self.capacity:
                self._used[1] = 1
                kept = int(self._used[2])
                print_log(
                    f"picture cache: full, {kept} pictures in {self.capacity / GIB:.2f} GiB",
                    "current",
                )
                return
            self._memory[start : start + image.size] = image.reshape(-1)
            self._table[number, 1:] = (*image.shape[:2], picture.reduction, *picture.ori_shape)
            self._table[number, 0] = start + 1
            self._used[0] = start + image.size
            self._used[2] += 1

    def __len__(self) -> int:
        return 0 if self._memory is None else int(self._used[2])

    def __reduce__(self):
        return PictureCache, (self.capacity,)
