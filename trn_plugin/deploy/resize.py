"""Antialiased bilinear resizing in NumPy, for exported files without resizing."""

from __future__ import annotations

import numpy as np

__all__ = ["resize_weights", "resized"]


def resize_weights(side: int, size: int) -> np.ndarray:
    """Weights (size, side) of an antialiased bilinear resize along one axis, float32.

    The triangle filter, as in :func:`trn_plugin.deploy.model.resize_weights`.
    """
    scale = side / size
    centers = (np.arange(size) + 0.5) * scale
    distances = np.abs(np.arange(side) + 0.5 - centers[:, None]) / max(scale, 1.0)
    weights = np.maximum(1 - distances, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize pictures (N, H, W, 3) uint8 to (N, height, width, 3) uint8."""
    rows, columns = map(resize_weights, images.shape[1:3], size)
    channels_first = images.transpose(0, 3, 1, 2).astype(np.float32)
    found = rows @ channels_first @ columns.T
    return found.round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
