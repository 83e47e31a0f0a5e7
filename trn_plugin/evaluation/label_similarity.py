"""The labels of a data set as features, for the ground truth of task similarity (Eq. 12)."""

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
    """Loss targets of each task, (N, width); rows of NaN where a record has no label.

    Args:
        records: of a data set, each with 'gt' by task.
        by_column: take the columns of `Task.parts` apart, (N, 1) by ``task/name``.
        place: makes of a record's number and its points (P, 2), in pixels of the picture, the
            points that are measured; default they stay as they are.
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
        apart = task.parts(values) if by_column else {}
        features |= apart or {name: values}
    return features


def own_shape(row: int, points: np.ndarray) -> np.ndarray:
    """Points in their own square box: without their place and scale in the picture."""
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    return (points - (low + high) / 2) / max(*(high - low), 1e-9)
