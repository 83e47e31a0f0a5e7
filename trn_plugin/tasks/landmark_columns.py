"""Landmark columns of a CSV file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from trn_plugin.errors import ConfigError, DataError
from trn_plugin.tasks.cells import LARGEST_COORDINATE, coordinate, is_missing, quoted
from trn_plugin.tasks.columns import LabelColumns, are_names, check_names, flip_of, two_of

__all__ = ["LandmarkColumns"]

VISIBLE = ("1", "2")  # values of the third column, as in COCO


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

    def read(self, cells: Sequence[str], where: str) -> np.ndarray:
        """(P, 2) in pixels; NaN for a missing point."""
        points = np.full((len(self.cells), 2), np.nan)
        columns = zip(self.columns, cells, strict=True)
        for point, count in enumerate(self.cells):
            own = list(itertools.islice(columns, count))
            if any(is_missing(cell) for _, cell in own):
                continue
            if count == 2 or _visible(*own[2], where):
                points[point] = [coordinate(c, f"{name} in pixels", where) for name, c in own[:2]]
        return points

    def labelled(self, missing: np.ndarray) -> np.ndarray:
        """Rows with at least one point."""
        ends = np.cumsum(self.cells)
        points = np.split(missing, ends[:-1], axis=1)
        return ~np.all([point.any(axis=1) for point in points], axis=0)

    def read_all(self, cells, where) -> np.ndarray:
        points, known, start = [], True, 0
        for count in self.cells:
            own = cells[start : start + count]
            start += count
            gone = np.any([column.missing for column in own], axis=0)
            if count == 3:
                index, texts = own[2].distinct()
                gone = gone | np.array([text == "0" for text in texts])[index]
                known = known & (gone | np.array([text in VISIBLE for text in texts])[index])
            point = np.stack([column.numbers() for column in own[:2]], axis=1)
            known = known & (gone | (np.abs(point) <= LARGEST_COORDINATE).all(axis=1))
            points.append(np.where(gone[:, None], np.nan, point))
        return self.completed(np.stack(points, axis=1), known, cells, where)


def _visible(column: str, cell: str, where: str) -> bool:
    """Whether a visibility cell says that a point is labelled: 0 no, 1 or 2 yes."""
    if cell not in ("0", *VISIBLE):
        raise DataError(
            f"{where}: expected {column} to be 0 (missing), 1 or 2, found {quoted(cell)}"
        )
    return cell != "0"
