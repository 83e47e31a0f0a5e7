"""Read the label columns and boxes that a config describes; errors name the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trn_plugin.datasets.tabular_reader import Table
from trn_plugin.errors import ConfigError
from trn_plugin.tasks import TASKS, LabelColumns, Task
from trn_plugin.tasks.columns import are_names

__all__ = ["NO_BOX", "box_rule", "has_box", "label_columns"]

NO_BOX = dict(
    columns="its box columns are empty", landmarks="fewer than two landmarks at least a pixel apart"
)


def label_columns(labels: Mapping[str, Mapping]) -> dict[str, LabelColumns]:
    """The columns of each task."""
    if not isinstance(labels, Mapping) or not labels:
        raise ConfigError(
            "labels: expected for each task the columns of its label, such as "
            f"dict(smile=dict(kind='attributes', columns=['smiling'])), found {labels!r}"
        )
    found = {}
    for task, label in labels.items():
        if not isinstance(task, str) or not isinstance(label, Mapping):
            raise ConfigError(
                f"labels.{task}: expected a dict such as dict(kind='values') under the task's "
                f"name, found {label!r} under {task!r}"
            )
        options = dict(label)
        kind = options.pop("kind", None)
        columns = TASKS.named(kind, f"labels.{task}.kind").columns_type
        for key in options:
            if key not in columns.keys:
                raise ConfigError(
                    f"labels.{task}: a label of kind {kind!r} takes "
                    f"{', '.join(columns.keys)}; found {key!r}"
                )
        found[task] = columns(kind, task, **options)
    return found


def box_rule(
    box: str | Sequence[str] | None, tasks: Mapping[str, Task]
) -> tuple[str, tuple[str, ...]]:
    """Source of the boxes ('whole', 'landmarks' or 'columns'), and the columns."""
    rng = np.random.default_rng(0)
    points = sum(len(task.points(task.example(rng))) for task in tasks.values())
    if box is None:
        box = "landmarks" if points > 1 else "whole"
    if box == "landmarks" and points < 2:
        raise ConfigError("box: 'landmarks' needs labels of two points or more")
    if isinstance(box, str) and box in ("whole", "landmarks"):
        return box, ()
    if not are_names(box, 4):
        raise ConfigError(
            "box: expected 'whole', 'landmarks' or the four columns of x0, y0, x1, y1, found "
            f"{box!r}"
        )
    return "columns", tuple(box)


def has_box(rule: str, tasks: Mapping[str, Task], table: Table) -> np.ndarray:
    """(N,) bool: rows that have a box, by the ``rule`` 'whole', 'columns' or 'landmarks'."""
    count = len(table.lines)
    if rule == "whole":
        return np.ones(count, dtype=bool)
    if rule == "columns":
        return ~np.isnan(table.regions[:, 0])
    low, high = np.full((2, count, 2), np.nan)
    for name, task in tasks.items():
        labels, labelled = table.labels[name]
        points = task.all_points(labels[labelled])
        if points.size:
            low[labelled] = np.fmin(low[labelled], np.fmin.reduce(points, axis=1))
            high[labelled] = np.fmax(high[labelled], np.fmax.reduce(points, axis=1))
    return (high - low >= 1).any(axis=1)
