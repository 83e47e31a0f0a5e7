"""What travels from the data set to the evaluators."""

from typing import NamedTuple

import numpy as np
import torch
from mmengine.structures import BaseDataElement

from trn_plugin.errors import ConfigError

__all__ = ["MultiTaskDataSample", "relation_name", "relation_sides"]

PLAIN_DTYPES = {torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool}


class MultiTaskDataSample(BaseDataElement):
    """Labels and predictions of one picture, by task name.

    Attributes:
        gt (dict[str, Tensor]): labels; a task that has none is absent. Landmarks: (P, 2) float,
            x and y as fractions of the crop's width and height. Classes: () int64. Binary
            attributes: (A,) float, 0 or 1. Values: (V,) float.
        pred (dict[str, Tensor]): predictions in the same form as the head's ``predict`` gives
            them: (P, 2) fractions of the crop, (C,) class or (A,) attribute probabilities, (V,)
            values.
        hidden (dict[str, Tensor]): (d,) what enters each task's last layer.
        output (dict[str, Tensor]): (d,) what each head predicts, in the form of its loss target.
        logits (dict[str, Tensor]): (d,) each head's raw output.
        target (dict[str, Tensor]): (d,) each head's loss target; a task without label is absent.

    Metainfo: ``img_path``, ``ori_shape`` (height, width in pixels), ``box`` (x0, y0, x1, y1 of the
    crop in the picture's pixels), ``box_source`` (how the box was made).

    Pickled, its CPU tensors are arrays: torch would pass each of them from a data-loader worker as
    a shared-memory file of its own, which costs the training process more than a small picture.
    """

    def __getstate__(self) -> dict:
        return {
            name: {key: _Array.of(entry) for key, entry in value.items()}
            if name in self._data_fields and isinstance(value, dict)
            else value
            for name, value in self.__dict__.items()
        }

    def __setstate__(self, state: dict) -> None:
        for name, value in state.items():
            if isinstance(value, dict):
                value = {
                    key: torch.from_numpy(entry.array) if isinstance(entry, _Array) else entry
                    for key, entry in value.items()
                }
            self.__dict__[name] = value


class _Array(NamedTuple):
    """A tensor on its way between processes."""

    array: np.ndarray

    @classmethod
    def of(cls, value: object) -> object:
        plain = isinstance(value, torch.Tensor) and value.dtype in PLAIN_DTYPES
        if not plain or value.device.type != "cpu" or value.requires_grad:
            return value
        return cls(value.numpy())


def relation_sides(relation, key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The two groups of tasks of a relation, ``('a', 'b')`` or ``(('a', 'b'), ('c',))``.

    Raises:
        ConfigError: no pair, an empty side, or a task on both or twice; ``key`` says where.
    """
    pair = isinstance(relation, (tuple, list)) and len(relation) == 2
    sides = tuple((s,) if isinstance(s, str) else tuple(s) for s in relation) if pair else ()
    tasks = [task for side in sides for task in side]
    if not pair or not all(isinstance(task, str) for task in tasks):
        raise ConfigError(f"{key}: expected pairs of tasks or of groups of tasks, got {relation!r}")
    if not all(sides) or len(set(tasks)) < len(tasks):
        raise ConfigError(f"{key}: expected two different, non-empty sides, got {relation!r}")
    return sides


def relation_name(sides: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    """``a-b``, or ``a+b-c`` with groups."""
    return "-".join("+".join(side) for side in sides)
