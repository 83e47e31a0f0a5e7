"""Labels of a data set as features, for the ground-truth task similarity (Eq. 12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trn_plugin.tasks import Task

__all__ = ["label_features", "own_shape"]

Place = Callable[[int, np.ndarray], np.ndarray]


def label_features(
    records: Sequence[Mapping],
    tasks: Mapping[str, Task],
    by_column: bool = False,
    place: Place | None = None,
) -> dict[str, np.ndarray]:
    """Loss targets (N, width) by task, with a row of NaN for a missing label.

    Args:
        records: records of a data set, each with 'gt' by task.
        by_column: split tasks into columns (N, 1) by ``task/name``, see `Task.parts`.
        place: maps a record's index and its points (P, 2), in pixels of the picture, to the points
            to measure; default the identity.
    """
    features = {}
    for name, task in tasks.items():
        labels = [record["gt"].get(name) for record in records]
        rows = [row for row, label in enumerate(labels) if label is not None]
        known = [labels[row] for row in rows]
        if place is not None:
            known = [
                task.mapped(label, lambda points, row=row: place(row, points))
                for row, label in zip(rows, known, strict=True)
            ]
        values = np.full((len(records), task.width), np.nan)
        values[rows] = task.targets(known, np.float64)
        columns = task.parts(values) if by_column else {}
        features |= columns or {name: values}
    return features


def own_shape(row: int, points: np.ndarray) -> np.ndarray:
    """Points relative to their own square box, independent of position and scale."""
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    return (points - (low + high) / 2) / max(*(high - low), 1e-9)
