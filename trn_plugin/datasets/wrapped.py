"""Wrapping data sets: concatenated, repeated, balanced, subsets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import Subset

from trn_plugin.datasets.draws import reading
from trn_plugin.errors import ConfigError
from trn_plugin.registry import DATASETS

__all__ = ["DrawnDataset", "category_ids", "parts_of"]


def parts_of(dataset: Any, rows: np.ndarray | None = None) -> Iterator[tuple[Any, np.ndarray]]:
    """The innermost data sets, and the indices of their samples that a wrapper reads.

    Args:
        dataset: a data set, wrapping or not.
        rows: (n,) indices of its samples; None for all.

    Yields:
        A data set that wraps no other, and (m,) indices of its samples, repeated as often as they
        are read. Under an unknown wrapper, the indices of all its samples.
    """
    rows = np.arange(len(dataset)) if rows is None else rows
    inner = getattr(dataset, "dataset", None)
    if isinstance(dataset, ConcatDataset):
        ends = np.asarray(dataset.cumulative_sizes)
        part = np.searchsorted(ends, rows, side="right")
        for number, each in enumerate(dataset.datasets):
            yield from parts_of(each, rows[part == number] - (ends[number] - len(each)))
    elif isinstance(dataset, RepeatDataset):
        yield from parts_of(inner, rows % len(inner))
    elif isinstance(dataset, ClassBalancedDataset):
        yield from parts_of(inner, np.asarray(dataset.repeat_indices)[rows])
    elif isinstance(dataset, Subset):
        yield from parts_of(inner, np.asarray(dataset.indices)[rows])
    elif isinstance(dataset, DrawnDataset):
        yield from parts_of(inner, rows)
    elif inner is not None:
        yield from parts_of(inner)
    elif hasattr(dataset, "datasets"):
        for each in dataset.datasets:
            yield from parts_of(each)
    else:
        yield dataset, rows


def category_ids(dataset: Any, index: int) -> list[int]:
    """Ids of the classes and attributes that a sample has, for ``ClassBalancedDataset``.

    Ids are numbered over the tasks of all innermost data sets, in order; tasks with the same name
    and classes share ids.

    Raises:
        ConfigError: a data set that does not describe its tasks, or an unknown wrapper.
    """
    starts: dict[tuple, int] = {}
    count = 0
    for part, _ in parts_of(dataset, np.zeros(0, int)):
        for name, task in getattr(part, "described", {}).items():
            if (name, task.names) not in starts:
                starts[name, task.names] = count
                count += len(task.names)
    found = [(part, row) for part, rows in parts_of(dataset, np.array([index])) for row in rows]
    if len(found) != 1 or not hasattr(found[0][0], "described"):
        raise ConfigError(f"{type(dataset).__name__} does not describe the classes of its samples")
    part, row = found[0]
    labels = part.get_data_info(int(row))["gt"]
    return [
        starts[name, task.names] + category
        for name, task in part.described.items()
        if name in labels
        for category in task.categories(labels[name])
    ]


@DATASETS.register_module()
class DrawnDataset:
    """Passes the draw (`SampleDraw`) on to the inner data sets.

    `SafeRunner` puts it around every wrapping data set. All other attributes are those of the
    wrapped data set.

    Args:
        dataset: a data set or its config.
    """

    takes_draws = True

    def __init__(self, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with reading(index):
            return self.dataset[index]

    @property
    def metainfo(self) -> dict:
        """Metainfo of the data set, else of the first inner one, with the tasks of all.

        ``datasets`` lists the names of the inner data sets if they differ.
        """
        found = [getattr(each, "metainfo", None) or {} for each, _ in parts_of(self.dataset)]
        own = getattr(self.dataset, "metainfo", None) or next(filter(None, found), {})
        names = list(dict.fromkeys(each["dataset"] for each in found if each.get("dataset")))
        own = {"datasets": names, **own} if len(names) > 1 else own
        tasks = dict(own.get("tasks", {}))
        for each in found:
            tasks = {**tasks, **each.get("tasks", {}), **tasks}
        return {**own, "tasks": tasks} if tasks else own

    def labels_of(self, task: str, rows: np.ndarray | None = None) -> np.ndarray:
        """See `MultiTaskDataset`; from all inner data sets, as often as a sample is read.

        Raises:
            ConfigError: a data set without ``labels_of``, or no data set has the task.
        """
        found, problem = [], None
        for part, part_rows in parts_of(self.dataset, rows):
            if not hasattr(part, "labels_of"):
                raise ConfigError(f"{type(part).__name__} has no labels_of(task, rows)")
            try:
                found.append(part.labels_of(task, part_rows))
            except ConfigError as error:  # another of the data sets may have the task
                problem = error
        if not found:
            raise problem or ConfigError(f"no data set has the task {task!r}")
        return np.concatenate(found)

    def get_cat_ids(self, idx: int) -> list[int]:
        """See `MultiTaskDataset`; numbered over the tasks of all inner data sets."""
        if hasattr(self.dataset, "get_cat_ids"):
            return self.dataset.get_cat_ids(idx)
        return category_ids(self.dataset, idx)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)
