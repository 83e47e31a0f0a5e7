"""Landmarks: points in a picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trn_plugin.errors import ConfigError
from trn_plugin.tasks.base import Curve, Line, Task
from trn_plugin.tasks.kinds import TASKS
from trn_plugin.tasks.landmark_columns import LandmarkColumns

__all__ = ["NORMS", "LandmarkTask", "mean_points", "normalized_errors", "point_offsets"]

NORMS = ("interocular", "box", "diagonal", "crop")
NORM_NAMES = {"interocular": "interocular distance", "crop": "side of the crop"}


@TASKS.register
class LandmarkTask(Task):
    """Points (P, 2), x and y as fractions of the crop's width and height; NaN for a missing one.

    A missing point has no loss and counts in no metric; task similarity uses complete labels only.
    ``info`` may hold ``interocular``, the indices of the two eye points, whose distance normalises
    the errors.
    """

    kind = "landmarks"
    noun = "points"
    columns_type = LandmarkColumns
    meaning = (
        "x and y of each point, in pixels of the given picture from its upper left corner "
        "(the middle of the first pixel is 0.5, 0.5)"
    )
    difference_unit = "of the picture's side"

    def __init__(self, name: str, info: Mapping) -> None:
        super().__init__(name, info)
        eyes = info.get("interocular")
        known = range(len(self.names))
        if eyes is not None and (len(eyes) != 2 or not all(index in known for index in eyes)):
            raise ConfigError(
                f"task {name}: expected interocular, the indices of two points, found {eyes!r}"
            )

    @property
    def interocular(self) -> tuple[int, int] | None:
        """The indices of the two eye points; None if unknown."""
        return self.info.get("interocular")

    @property
    def width(self) -> int:
        return 2 * len(self.names)

    @property
    def label_shape(self) -> tuple[int, ...]:
        return len(self.names), 2

    output_shape = label_shape

    @property
    def expected(self) -> str:
        return f"shape {self.label_shape}, finite"

    def valid(self, labels: np.ndarray) -> np.ndarray:
        known = np.isfinite(labels).all(axis=2)
        missing = np.isnan(labels).all(axis=2)
        return (known | missing).all(axis=1) & known.any(axis=1)

    def points(self, label: np.ndarray) -> np.ndarray:
        """The points that are not missing."""
        missing = _missing(label)
        return label if missing is None else label[~missing]

    def with_points(self, label: np.ndarray, points: np.ndarray) -> np.ndarray:
        missing = _missing(label)
        if missing is None:
            return points
        whole = np.full(label.shape, np.nan, points.dtype)
        whole[~missing] = points
        return whole

    def all_points(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def shifted(self, labels: np.ndarray, shift: np.ndarray) -> np.ndarray:
        return labels + shift

    def mirrored(self, label: np.ndarray) -> np.ndarray:
        if "flip" not in self.info:
            raise ConfigError(
                f"RandomFlip: cannot tell which points of {self.name!r} change places in a mirror; "
                "add flip_pairs to its labels ([] if none do) or remove RandomFlip"
            )
        points = label[list(self.info["flip"])].copy()
        points[:, 0] = 1 - points[:, 0]
        return points

    def read(self, output: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """(P, 2) float, in pixels of the picture."""
        return output + np.array(corner, dtype=output.dtype)

    def as_json(self, prediction: np.ndarray) -> dict:
        return dict(zip(self.names, prediction.tolist(), strict=True))

    def columns(self) -> list[str]:
        return [f"{self.name}.{point}{part}" for point in self.names for part in (".x", ".y")]

    def row(self, record: dict) -> list:
        return [value for point in record.values() for value in point]

    def difference_scale(self, width: int, height: int, spread) -> np.ndarray:
        return np.array([width, height])

    @property
    def norm(self) -> str:
        """Normaliser of the errors: 'interocular' if the eye points are known, else 'crop'."""
        return "crop" if self.interocular is None else "interocular"

    def _errors(self, outputs, labels, boxes) -> np.ndarray:
        """(N,) errors in percent of the :attr:`norm`."""
        eyes = self.interocular or (0, 1)
        return 100 * normalized_errors(outputs, labels, boxes, self.norm, eyes)

    def error(self, label, output, box) -> float:
        return float(self._errors(*(np.asarray(value)[None] for value in (output, label, box)))[0])

    def label_text(self, label: np.ndarray) -> str:
        """The number of points, and which are missing."""
        gone = np.isnan(label).any(axis=1)
        missing = [name for name, each in zip(self.names, gone, strict=True) if each]
        if not missing:
            return f"{len(label)} points"
        return f"{len(label) - len(missing)} points, missing: {', '.join(missing)}"

    def case_lines(self, label, output, box) -> list[Line]:
        if label is None:
            return [Line(f"{self.name}: no label")]
        missing = np.isnan(label).any(axis=1).sum()
        lacks = f", {missing} of {len(label)} points missing" if missing else ""
        return [Line(f"{self.name}: error {self.error(label, output, box):.1f} %{lacks}")]

    def curve(self, labels, outputs, boxes) -> Curve | None:
        errors = self._errors(outputs, labels, boxes)
        usable = ~np.isnan(errors)
        if not usable.any():
            return None
        truth = labels[usable]
        constant = np.broadcast_to(mean_points(truth), truth.shape)
        mean_shape = self._errors(constant, truth, boxes[usable])
        label = f"mean point error / {NORM_NAMES[self.norm]} (%)"
        errors = {"model": errors[usable], "mean shape": mean_shape}
        return Curve("cumulative_error", dict(errors=errors, xlabel=label))


def mean_points(labels: np.ndarray) -> np.ndarray:
    """Mean (P, 2) of each point over the labels (N, P, 2) that have it; NaN if none has it."""
    missing = np.isnan(labels)
    if not missing.any():
        return labels.mean(axis=0)
    counts = (~missing).sum(axis=0)
    sums = np.where(missing, 0.0, labels).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def normalized_errors(
    pred: np.ndarray,
    truth: np.ndarray,
    boxes: np.ndarray,
    norm: str = "interocular",
    interocular: tuple[int, int] = (0, 1),
) -> np.ndarray:
    """Mean point error of each picture, divided by a normaliser, both in the picture's pixels.

    The mean is over the points that are not missing; the normaliser needs all its points.

    Args:
        pred: (N, P, 2) predicted points, fractions of the crop.
        truth: (N, P, 2) true points, fractions of the crop; NaN for a missing one.
        boxes: (N, 4) x0, y0, x1, y1 of the crops in the pictures' pixels.
        norm: ``interocular``, the distance between the two true eye points; ``box``,
            sqrt(width * height) of the true points' bounding box; ``diagonal``, its diagonal;
            ``crop``, sqrt(width * height) of the crop.
        interocular: indices of the two eye points.

    Returns:
        (N,) errors as fractions of the normaliser; NaN if the normaliser is 0 or not finite or all
        points are missing, else inf if the prediction is not finite.
    """
    boxes = np.asarray(boxes)
    corners, sides = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    pred, truth = (np.asarray(points, np.float64) * sides + corners for points in (pred, truth))
    if norm == "interocular":
        left, right = interocular
        normalizer = np.linalg.norm(truth[:, left] - truth[:, right], axis=-1)
    else:
        extent = truth.max(axis=1) - truth.min(axis=1)
        extent = sides[:, 0].astype(np.float64) if norm == "crop" else extent
        diagonal = norm == "diagonal"
        normalizer = np.linalg.norm(extent, axis=-1) if diagonal else np.sqrt(extent.prod(-1))
    distances = np.linalg.norm(pred - truth, axis=-1)
    missing = np.isnan(truth).all(axis=-1)
    if missing.any():
        count = np.maximum((~missing).sum(axis=-1), 1)
        distances = np.where(missing, 0.0, distances).sum(axis=-1) / count
    else:
        distances = distances.mean(axis=-1)
    known = (np.isfinite(truth).all(axis=-1) | missing).all(axis=-1) & ~missing.all(axis=-1)
    usable = np.isfinite(normalizer) & (normalizer > 0) & known
    distances = np.where(np.isfinite(distances), distances, np.inf)
    return np.where(usable, distances / np.where(usable, normalizer, 1.0), np.nan)


def point_offsets(pred: np.ndarray, truth: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Prediction minus label in the picture's pixels, (N, P, 2).

    Args:
        pred, truth, boxes: see `normalized_errors`.
    """
    boxes = np.asarray(boxes, np.float64)
    sides = boxes[:, None, 2:] - boxes[:, None, :2]
    return (np.asarray(pred, np.float64) - np.asarray(truth, np.float64)) * sides


def _missing(label: np.ndarray) -> np.ndarray | None:
    """(P,) bool: missing points; None if there are none."""
    missing = np.isnan(label).any(axis=1)
    return missing if missing.any() else None
