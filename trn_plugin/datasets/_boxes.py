"""Which rows of a table have a box."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trn_plugin.datasets.tabular_reader import Table
from trn_plugin.tasks import Task

__all__ = ["NO_BOX", "has_box"]

NO_BOX = dict(columns="no box in its columns", landmarks="no two landmarks for a box")


def has_box(rule: str, tasks: Mapping[str, Task], table: Table) -> np.ndarray:
    """(N,) bool: rows that have a box.

    Args:
        rule: 'whole', 'columns' or 'landmarks', see `RegionBox`.
        tasks: of the labels.
        table: the rows.
    """
    count = len(table.lines)
    if rule == "whole":
        return np.ones(count, dtype=bool)
    if rule == "columns":
        return ~np.isnan(table.regions[:, 0])
    low, high = np.full((2, count, 2), np.nan)
    for name, task in tasks.items():
        labels, there = table.labels[name]
        points = task.all_points(labels[there])
        if points.size:
            low[there] = np.fmin(low[there], np.fmin.reduce(points, axis=1))
            high[there] = np.fmax(high[there], np.fmax.reduce(points, axis=1))
    return (high > low).any(axis=1)
