"""How related the labels of a data set are (Eq. 12): the ground truth of task similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from trn_plugin.relation import task_similarity, task_similarity_matrix

__all__ = ["label_features", "label_similarity"]


def label_features(
    records: Sequence[Mapping], tasks: Mapping[str, Mapping]
) -> dict[str, np.ndarray]:
    """Labels of each task as features; rows of NaN where a record has no label.

    Args:
        records: of a data set, each with 'gt' by task.
        tasks: metainfo of the tasks, by name. Classes become one-hot (N, C), attributes stay
            (N, A), landmarks are placed in their own square box, (N, 2P): scale and position of
            a face in its picture say nothing of the face.
    """
    features = {}
    for task, info in tasks.items():
        width = {"landmarks": 2}.get(info["kind"], 1) * len(info.get("classes") or info["names"])
        values = np.full((len(records), width), np.nan)
        for row, record in enumerate(records):
            label = record["gt"].get(task)
            if label is None:
                continue
            if info["kind"] == "class":
                values[row] = np.eye(width)[int(label)]
            elif info["kind"] == "landmarks":
                low, high = np.min(label, axis=0), np.max(label, axis=0)
                values[row] = ((label - (low + high) / 2) / max(*(high - low), 1e-9)).ravel()
            else:
                values[row] = np.asarray(label, dtype=float).ravel()
        features[task] = values
    return features


def label_similarity(features: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """tau of the labels of every pair of tasks, over the records that have both.

    Args:
        features: (N, d) by task, as of :func:`label_features`.

    Returns:
        (T, T) tau, NaN where fewer records than d1 + d2 + 2 have both labels, and the (T, T)
        number of those records.
    """
    columns = [torch.from_numpy(values) for values in features.values()]
    labelled = np.stack([np.isfinite(values).all(1) for values in features.values()])
    counts = labelled.astype(int) @ labelled.T.astype(int)
    if labelled.all():
        tau = task_similarity_matrix(columns).numpy()
    else:
        tau = np.zeros(counts.shape)
        for i, first in enumerate(columns):
            for j in range(i, len(columns)):
                both = torch.from_numpy(labelled[i] & labelled[j])
                if counts[i, j]:
                    tau[i, j] = tau[j, i] = task_similarity(first[both], columns[j][both])
    widths = np.array([values.shape[1] for values in features.values()])
    undefined = counts - 1 <= widths[:, None] + widths
    np.fill_diagonal(undefined, counts.diagonal() < 2)
    return np.where(undefined, np.nan, tau), counts
