"""Landmarks: points in a picture."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trn_plugin.errors import ConfigError, DataError
from trn_plugin.tasks.base import Curve, Line, Task
from trn_plugin.tasks.cells import LARGEST_COORDINATE, is_missing, quoted
from trn_plugin.tasks.columns import (
    LabelColumns,
    are_names,
    check_names,
    column_numbers,
    each_distinct,
    flip_of,
    two_of,
)
from trn_plugin.tasks.kinds import TASKS

__all__ = ["NORMS", "LandmarkTask", "nanmean", "normalized_errors"]

NORMS = ("interocular", "box", "diagonal", "crop")
VISIBLE = ("1", "2")  # values of the third column, as in COCO
NORM_NAMES = {"interocular": "interocular distance", "crop": "side of the crop"}


class LandmarkColumns(LabelColumns):
    """Columns x and y in pixels for each point, and optionally its visibility as in COCO.

    A point is missing if one of its cells is missing or its visibility is 0.
    """

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
                if not (are_names(pair, 2) or are_names(pair, 3)):
                    raise ConfigError(
                        f"{key}.points.{name}: expected the columns of x and y (and of visibility),"
                        f" found {pair!r}"
                    )
            self.columns = tuple(column for pair in points.values() for column in pair)
            self.cells = tuple(map(len, points.values()))
        else:
            points = check_names(f"{key}.points", points)
            self.columns = tuple(f"{name}_{axis}" for name in points for axis in "xy")
            self.cells = (2,) * len(points)
        names = tuple(points)
        self.info = dict(kind=kind, names=names)
        if flip_pairs is not None:
            self.info["flip"] = flip_of(f"{key}.flip_pairs", flip_pairs, names)
        if interocular is not None:
            self.info["interocular"] = two_of(f"{key}.interocular", interocular, names)

    def labelled(self, missing: np.ndarray) -> np.ndarray:
        """Rows with at least one point."""
        ends = np.cumsum(self.cells)
        points = np.split(missing, ends[:-1], axis=1)
        return ~np.all([point.any(axis=1) for point in points], axis=0)

    def read_all(self, cells, where) -> np.ndarray:
        """(N, P, 2) in pixels; NaN for a missing point."""
        points, columns = [], zip(self.columns, cells, strict=True)
        for count in self.cells:
            names, point_cells = zip(*itertools.islice(columns, count), strict=True)
            missing = np.any([column.missing for column in point_cells], axis=0)
            if count == 3:
                seen = each_distinct(
                    point_cells[2], functools.partial(_is_visible, names[2]), where
                )
                missing = missing | ~seen.astype(bool)
            point = [
                column_numbers(column, f"{name} in pixels", where, LARGEST_COORDINATE, ~missing)
                for name, column in zip(names[:2], point_cells[:2], strict=True)
            ]
            points.append(np.where(missing, np.nan, point).T)
        return np.stack(points, axis=1)


def _is_visible(column: str, cell: str, where: str) -> bool:
    """Whether a visibility cell says that a point is labelled: 0 no, 1 or 2 yes."""
    if cell not in ("0", *VISIBLE) and not is_missing(cell):
        raise DataError(
            f"{where}: expected {column} to be 0 (missing), 1 or 2, found {quoted(cell)}"
        )
    return cell in VISIBLE


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
        return label[~np.isnan(label).any(axis=1)]

    def with_points(self, label: np.ndarray, points: np.ndarray) -> np.ndarray:
        whole = np.full(label.shape, np.nan, points.dtype)
        whole[~np.isnan(label).any(axis=1)] = points
        return whole

    def mapped(self, label: np.ndarray, change: Callable) -> np.ndarray:
        return change(label)  # missing points stay NaN

    def all_points(self, labels: np.ndarray) -> np.ndarray:
        return labels

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
        return 100 * normalized_errors(outputs, labels, boxes, self.norm, self.interocular)

    def error(self, label, output, box) -> float:
        return float(self._errors(*(np.asarray(value)[None] for value in (output, label, box)))[0])

    def label_text(self, label: np.ndarray) -> str:
        """The number of points, and which are missing."""
        gone = np.isnan(label).any(axis=1)
        missing = [name for name, each in zip(self.names, gone, strict=True) if each]
        lacks = f", missing: {', '.join(missing)}" if missing else ""
        return f"{len(label) - len(missing)} points{lacks}"

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
        constant = np.broadcast_to(nanmean(truth, axis=0), truth.shape)
        mean_shape = self._errors(constant, truth, boxes[usable])
        label = f"mean point error / {NORM_NAMES[self.norm]} (%)"
        errors = {"model": errors[usable], "mean shape": mean_shape}
        return Curve("cumulative_error", dict(errors=errors, xlabel=label))


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """``np.nanmean``, and NaN without a warning where all values are missing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return np.nanmean(values, axis=axis)


def normalized_errors(
    pred: np.ndarray,
    truth: np.ndarray,
    boxes: np.ndarray,
    norm: str = "interocular",
    interocular: tuple[int, int] | None = (0, 1),
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
    distances = np.where(np.isfinite(distances), distances, np.inf)
    errors = nanmean(np.where(missing, np.nan, distances), axis=-1)
    valid = (np.isfinite(truth).all(axis=-1) | missing).all(axis=-1)
    usable = valid & np.isfinite(normalizer) & (normalizer > 0)
    return np.where(usable, errors / np.where(usable, normalizer, 1.0), np.nan)
