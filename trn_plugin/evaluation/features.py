"""The features of a trained model over a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample

__all__ = ["LEVELS", "collect_features", "memory_of"]

LEVELS = {"hidden": "hidden", "output": "output", "gt": "target"}
"""Fields of a data sample, by the name of the level."""


def collect_features(model: torch.nn.Module, loader: Iterable) -> dict[str, dict[str, np.ndarray]]:
    """Hidden features, predictions and labels of every task.

    Args:
        model: a `MultiTaskModel` in eval mode.
        loader: batches as its ``test_step`` takes them.

    Returns:
        (N, d) float32 by level ('hidden', 'output', 'gt') and task; a row of NaN where a sample
        has no label. Tasks whose hidden features are one tensor share one array.
    """
    parts: dict[str, dict[str, list]] = {level: {} for level in LEVELS}
    owners: dict[str, str] = {}
    with torch.no_grad():
        for data in loader:
            samples = model.test_step(data)
            is_batch = isinstance(samples, MultiTaskBatch)
            owners = _owners(samples.fields["hidden"] if is_batch else samples[0].hidden)
            for level, field in LEVELS.items():
                for task in model.tasks:
                    if level == "hidden" and owners[task] != task:
                        continue
                    rows = (_of_batch if is_batch else _of_samples)(samples, field, task)
                    parts[level].setdefault(task, []).append(rows)
    features = {
        level: {task: _join(batches) for task, batches in tasks.items()}
        for level, tasks in parts.items()
    }
    features["hidden"] = {task: features["hidden"][owners[task]] for task in owners}
    return features


def memory_of(values: torch.Tensor) -> tuple:
    """Equal for views of the same numbers in memory, and for no others that exist together."""
    return values.data_ptr(), values.shape, values.stride(), values.dtype


def _owners(hidden: dict[str, torch.Tensor]) -> dict[str, str]:
    """For each task the first one with the same hidden features in memory."""
    first: dict[tuple, str] = {}
    return {task: first.setdefault(memory_of(values), task) for task, values in hidden.items()}


def _of_batch(batch: MultiTaskBatch, field: str, task: str) -> np.ndarray:
    if task not in batch.fields[field]:
        return np.full((len(batch), 0), np.nan, np.float32)
    rows = batch.array(field, task).astype(np.float32).reshape(len(batch), -1)
    if field == LEVELS["gt"]:
        rows[~batch.whole(task).cpu().numpy()] = np.nan
    return rows


def _of_samples(samples: Sequence[MultiTaskDataSample], field: str, task: str) -> np.ndarray:
    rows = [getattr(sample, field).get(task) for sample in samples]
    known = [row for row in rows if row is not None]
    if not known:
        return np.full((len(rows), 0), np.nan, np.float32)
    missing = torch.full_like(known[0], torch.nan, dtype=torch.float32)
    stacked = torch.stack([missing if row is None else row.float() for row in rows])
    return stacked.flatten(1).cpu().numpy()


def _join(batches: list[np.ndarray]) -> np.ndarray:
    """Batches without a single label have no width of their own."""
    width = max(1, *(batch.shape[1] for batch in batches))
    return np.concatenate(
        [b if b.shape[1] else np.full((len(b), width), np.nan, np.float32) for b in batches]
    )
