"""albumentations' distortions, with keypoints remapped by inverting the distortion maps.

albumentations' own methods lose keypoints ('mask') or take 190 ms for 224 pixels ('direct').
"""

from __future__ import annotations

import os

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it makes a network request

import albumentations

__all__ = [
    "ElasticTransform",
    "GridDistortion",
    "OpticalDistortion",
    "PiecewiseAffine",
    "ThinPlateSpline",
]


class _KeypointRemapping:
    """Moves keypoints by the inverse of the distortion maps."""

    def apply_to_keypoints(
        self, keypoints: np.ndarray, map_x: np.ndarray, map_y: np.ndarray, **params
    ) -> np.ndarray:
        """Keypoints (N, 2 or more), x and y first; maps (H, W), source position of each pixel."""
        moved = keypoints.copy()
        for place, (x, y) in enumerate(keypoints[:, :2].astype(np.float64)):
            moved[place, :2] = _inverse(map_x, map_y, x, y)
        return moved


def _inverse(map_x: np.ndarray, map_y: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Position whose source is (x, y): the nearest pixel, refined by one Newton step."""
    nearest = int(np.argmin(np.square(map_x - np.float32(x)) + np.square(map_y - np.float32(y))))
    row, column = divmod(nearest, map_x.shape[1])
    # Jacobian by central differences, one-sided at the edges
    above, below = max(row - 1, 0), min(row + 1, map_x.shape[0] - 1)
    left, right = max(column - 1, 0), min(column + 1, map_x.shape[1] - 1)
    jacobian = np.array(
        [
            [
                (float(grid[row, right]) - float(grid[row, left])) / (right - left),
                (float(grid[below, column]) - float(grid[above, column])) / (below - above),
            ]
            for grid in (map_x, map_y)
        ]
    )
    residual = np.array([x - float(map_x[row, column]), y - float(map_y[row, column])])
    step = residual
    if abs(np.linalg.det(jacobian)) > 0.1:
        step = np.linalg.solve(jacobian, residual)
    reach = 2 * max(np.hypot(*residual), 0.5)  # limits the step where the map folds
    dx, dy = np.clip(step, -reach, reach)
    return column + dx, row + dy


class ElasticTransform(_KeypointRemapping, albumentations.ElasticTransform):
    """albumentations' class, with keypoints remapped."""


class GridDistortion(_KeypointRemapping, albumentations.GridDistortion):
    """albumentations' class, with keypoints remapped."""


class OpticalDistortion(_KeypointRemapping, albumentations.OpticalDistortion):
    """albumentations' class, with keypoints remapped."""


class PiecewiseAffine(_KeypointRemapping, albumentations.PiecewiseAffine):
    """albumentations' class, with keypoints remapped."""


class ThinPlateSpline(_KeypointRemapping, albumentations.ThinPlateSpline):
    """albumentations' class, with keypoints remapped."""
