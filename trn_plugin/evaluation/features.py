"""Collect hidden features, predictions and labels of a model, by level and task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from trn_plugin.evaluation.task_metric import Samples, to_array
from trn_plugin.structures import MultiTaskBatch

__all__ = ["FIELDS", "LABELS", "Features", "collect_features", "features_of", "joined", "split"]

LABELS = "gt"
FIELDS = {"hidden": "hidden", "output": "output", "logits": "logits", LABELS: "target"}
"""The field of a data sample for each level."""

Features = dict[str, dict[str, np.ndarray]]
"""(N, d) float32 by level and task; NaN for a missing row. Tasks that share a tensor share the
array."""


def collect_features(
    model: torch.nn.Module, loader: Iterable, levels: Sequence[str] = ("hidden", "output", LABELS)
) -> Features:
    """Features of every task of a `MultiTaskModel` in eval mode, over batches of its loader."""
    with torch.no_grad():
        return joined([features_of(model.test_step(data), levels, model.tasks) for data in loader])


def features_of(samples: Samples, levels: Iterable[str], tasks: Sequence[str]) -> Features:
    """Features of samples, by level and task; width 0 if no sample has any."""
    return {level: _of_level(samples, FIELDS[level], tasks) for level in levels}


def joined(parts: Sequence[Features]) -> Features:
    """Concatenate features of several parts."""
    return {
        level: _shared({task: [part[level][task] for part in parts] for task in tasks}, id, _concat)
        for level, tasks in parts[0].items()
    }


def split(features: Features) -> Iterator[Features]:
    """Split features into those of each sample, (1, d)."""
    count = max((len(x) for tasks in features.values() for x in tasks.values()), default=0)
    for row in range(count):
        yield {
            level: _shared({t: [x] for t, x in tasks.items()}, id, lambda x: x[0][row : row + 1])  # noqa: B023
            for level, tasks in features.items()
        }


def _of_level(samples: Samples, field: str, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    if not isinstance(samples, MultiTaskBatch):
        values = {task: [sample.get(field, {}).get(task) for sample in samples] for task in tasks}
        return _shared(values, _memory, _rows)
    values = {task: [samples.fields[field].get(task)] for task in tasks}
    found = _shared(values, _memory, lambda x: _matrix(x[0], len(samples)))
    for task in tasks if field == FIELDS[LABELS] else ():
        if task in samples.masks:
            known = samples.whole(task).cpu().numpy()[:, None]
            found[task] = np.where(known, found[task], np.float32(np.nan))
    return found


def _shared(values: Mapping[str, list], key: Callable, make: Callable) -> dict[str, np.ndarray]:
    """``make(list)`` by task; lists with equal keys share one result."""
    made: dict[tuple, np.ndarray] = {}
    found = {}
    for task, each in values.items():
        place = tuple(map(key, each))
        if place not in made:
            made[place] = make(each)
        found[task] = made[place]
    return found


def _memory(values: torch.Tensor | None) -> tuple | None:
    """A key that is equal for views of the same memory."""
    if values is None:
        return None
    return values.data_ptr(), values.shape, values.stride(), values.dtype


def _matrix(values: torch.Tensor | None, count: int) -> np.ndarray:
    array = np.zeros((count, 0)) if values is None else to_array(values)
    return array.astype(np.float32, copy=False).reshape(count, -1)


def _rows(values: list[torch.Tensor | None]) -> np.ndarray:
    """Stack n tensors to (n, d); NaN for None."""
    rows = [None if each is None else _matrix(each, 1)[0] for each in values]
    width = max((len(row) for row in rows if row is not None), default=0)
    rows = [np.full(width, np.nan, np.float32) if row is None else row for row in rows]
    return np.array(rows, np.float32).reshape(len(rows), width)


def _concat(parts: list[np.ndarray]) -> np.ndarray:
    width = max(1, *(part.shape[1] for part in parts))
    return np.concatenate(
        [x if x.shape[1] else np.full((len(x), width), np.nan, np.float32) for x in parts]
    )
