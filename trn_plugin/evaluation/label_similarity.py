"""The labels of a data set as features, for the ground truth of task similarity (Eq. 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["label_features"]


def label_features(
    records: Sequence[Mapping], tasks: Mapping[str, Mapping], by_column: bool = False
) -> dict[str, np.ndarray]:
    """Labels of each task as features; rows of NaN where a record has no label.

    Args:
        records: of a data set, each with 'gt' by task.
        tasks: metainfo of the tasks, by name. Classes become one-hot (N, C), attributes stay
            (N, A) and values (N, V), landmarks are placed in their own square box, (N, 2P): scale
            and position of a face in its picture say nothing of the face.
        by_column: take tasks of several attributes or values apart, (N, 1) for each ``task/name``.
    """
    features = {}
    for task, info in tasks.items():
        names = info.get("classes") or info["names"]
        width = {"landmarks": 2}.get(info["kind"], 1) * len(names)
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
        if by_column and info["kind"] in ("attributes", "values") and len(names) > 1:
            columns = np.ascontiguousarray(values.T)
            features |= {
                f"{task}/{name}": column[:, None]
                for name, column in zip(names, columns, strict=True)
            }
        else:
            features[task] = values
    return features
