"""Which rows of a table have a box."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trn_plugin.datasets._records import LabelTable
from trn_plugin.datasets.tabular_reader import Table
from trn_plugin.tasks import Task

__all__ = ["NO_BOX", "has_box"]

NO_BOX = dict(columns="no box in its columns", landmarks="no two landmarks for a box")


def has_box(rule: str, tasks: Mapping[str, Task], table: Table) -> np.ndarray:
    """(N,) bool: rows that have a box.

    Args:
        rule: 'whole', 'columns' or 'landmarks', see `RegionBox`.
        tasks: the tasks of the labels, by name.
        table: the rows.
    """
    count = len(table.lines)
    if rule == "whole":
        return np.ones(count, dtype=bool)
    if rule == "columns":
        return ~np.isnan(table.regions[:, 0])
    low, high = np.full((2, count, 2), np.nan)
    for name, task in tasks.items():
        points = _points(task, table.labels[name])
        if points is not None:
            low = np.fmin(low, np.fmin.reduce(points, axis=1))
            high = np.fmax(high, np.fmax.reduce(points, axis=1))
    return (high > low).any(axis=1)


def _points(task: Task, labels: LabelTable) -> np.ndarray | None:
    """Points (N, P, 2) of all rows, NaN where missing; None for a task without points."""
    known = task.all_points(labels.labels[labels.labelled])
    if not known.size:
        return None
    points = np.full((len(labels.labelled), *known.shape[1:]), np.nan)
    points[labels.labelled] = known
    return points
