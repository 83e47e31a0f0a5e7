"""Points of a picture, such as the landmarks of a face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trn_plugin.errors import ConfigError
from trn_plugin.tasks.base import TASKS, Curve, Line, Task
from trn_plugin.tasks.cells import LARGEST_COORDINATE, coordinate
from trn_plugin.tasks.columns import (
    LabelColumns,
    are_names,
    check_flip,
    check_names,
    flip_of,
    two_of,
)

__all__ = ["NORMS", "LandmarkTask", "normalized_errors"]

NORMS = ("interocular", "box", "diagonal", "crop")
NORM_NAMES = {"interocular": "interocular distance", "crop": "side of the crop"}


class LandmarkColumns(LabelColumns):
    """Two columns of pixels for each point."""

    keys = ("points", "flip_pairs", "interocular")

    def __init__(
        self,
        kind: str,
        task: str,
        points: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        flip_pairs: Sequence[Sequence[str]] | None = None,
        interocular: Sequence[str] | None = None,
    ) -> None:
        key = f"labels.{task}"
        if isinstance(points, Mapping):
            check_names(f"{key}.points", list(points))
            for name, pair in points.items():
                if not are_names(pair, 2):
                    raise ConfigError(
                        f"{key}.points.{name}: expected the columns of x and y, found {pair!r}"
                    )
            self.columns = tuple(column for pair in points.values() for column in pair)
        else:
            points = check_names(f"{key}.points", points)
            self.columns = tuple(f"{name}_{axis}" for name in points for axis in "xy")
        names = tuple(points)
        self.info = dict(kind=kind, names=names)
        if flip_pairs is not None:
            self.info["flip"] = flip_of(f"{key}.flip_pairs", flip_pairs, names)
        if interocular is not None:
            self.info["interocular"] = two_of(f"{key}.interocular", interocular, names)

    def read(self, cells: Sequence[str], where: str) -> np.ndarray:
        """(P, 2), in pixels."""
        values = [
            coordinate(cell, f"{column} in pixels", where)
            for cell, column in zip(cells, self.columns, strict=True)
        ]
        return np.array(values).reshape(-1, 2)

    def read_all(self, cells, where) -> np.ndarray:
        points = np.stack([column.numbers() for column in cells], axis=1).reshape(
            -1, len(cells) // 2, 2
        )
        known = (np.abs(points) <= LARGEST_COORDINATE).all((1, 2))
        return self.completed(points, known, cells, where)


@TASKS.register
class LandmarkTask(Task):
    """Points (P, 2), x and y as fractions of the crop's width and height.

    ``info`` may hold ``flip``, the index of the point that each becomes in a mirror, and
    ``interocular``, the indices of the two points whose distance errors are relative to.
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
        check_flip(name, info.get("flip"), len(self.names))
        eyes = info.get("interocular")
        known = range(len(self.names))
        if eyes is not None and (len(eyes) != 2 or not all(index in known for index in eyes)):
            raise ConfigError(
                f"task {name}: expected interocular, the indices of two points, found {eyes!r}"
            )

    @property
    def interocular(self) -> tuple[int, int] | None:
        """The indices of the two eye points, where they are known."""
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

    def fits(self, shape: tuple[int, ...]) -> bool:
        return shape == self.label_shape

    def points(self, label: np.ndarray) -> np.ndarray:
        return label

    def with_points(self, label: np.ndarray, points: np.ndarray) -> np.ndarray:
        return points

    def mirrored(self, label: np.ndarray) -> np.ndarray:
        if "flip" not in self.info:
            raise ConfigError(
                f"RandomFlip: the data set does not say which points of {self.name!r} change "
                "places in a mirror; add flip_pairs to its labels ([] if none do) or take "
                "RandomFlip out"
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

    def read_points(self, prediction: np.ndarray) -> np.ndarray:
        return np.asarray(prediction)

    def difference_scale(self, width: int, height: int, spread) -> np.ndarray:
        return np.array([width, height])

    @property
    def norm(self) -> str:
        """'interocular' if the eye points are known, else 'crop'."""
        return "crop" if self.interocular is None else "interocular"

    def _errors(self, outputs, labels, boxes) -> np.ndarray:
        """(N,) in percent of the :attr:`norm`."""
        eyes = self.interocular or (0, 1)
        return 100 * normalized_errors(outputs, labels, boxes, self.norm, eyes)

    def error(self, label, output, box) -> float:
        return float(self._errors(*(np.asarray(value)[None] for value in (output, label, box)))[0])

    def case_lines(self, label, output, box) -> list[Line]:
        if label is None:
            return [Line(f"{self.name}: no label")]
        return [Line(f"{self.name}: error {self.error(label, output, box):.1f} %")]

    def curve(self, labels, outputs, boxes) -> Curve | None:
        errors = self._errors(outputs, labels, boxes)
        usable = ~np.isnan(errors)
        if not usable.any():
            return None
        truth = labels[usable]
        constant = np.broadcast_to(truth.mean(axis=0), truth.shape)
        mean_shape = self._errors(constant, truth, boxes[usable])
        label = f"mean point error / {NORM_NAMES[self.norm]} (%)"
        errors = {"model": errors[usable], "mean shape": mean_shape}
        return Curve("cumulative_error", dict(errors=errors, xlabel=label))


def normalized_errors(
    pred: np.ndarray,
    truth: np.ndarray,
    boxes: np.ndarray,
    norm: str = "interocular",
    interocular: tuple[int, int] = (0, 1),
) -> np.ndarray:
    """Mean point error over a normaliser, both in the picture's pixels, for each picture.

    Args:
        pred: (N, P, 2) predicted points, fractions of the crop.
        truth: (N, P, 2) true points, fractions of the crop.
        boxes: (N, 4) x0, y0, x1, y1 of the crops in the pictures' pixels.
        norm: ``interocular``, the distance between the two true eye points; ``box``,
            sqrt(width * height) of the true points' bounding box; ``diagonal``, its diagonal;
            ``crop``, sqrt(width * height) of the crop.
        interocular: Indices of the two eye points.

    Returns:
        (N,) errors as fractions of the normaliser; NaN where the normaliser is 0 or not finite,
        inf where the normaliser is fine and the prediction is not finite.
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
    distances = np.linalg.norm(pred - truth, axis=-1).mean(axis=-1)
    usable = np.isfinite(normalizer) & (normalizer > 0) & np.isfinite(truth).all(axis=(1, 2))
    distances = np.where(np.isfinite(distances), distances, np.inf)
    return np.where(usable, distances / np.where(usable, normalizer, 1.0), np.nan)
