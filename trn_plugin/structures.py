"""Samples and batches: the labels and predictions that data sets, models and metrics exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.structures import BaseDataElement

from trn_plugin.errors import ConfigError
from trn_plugin.tasks import Task

__all__ = ["MultiTaskBatch", "MultiTaskDataSample", "relation_name", "relation_sides"]

PLAIN_DTYPES = {torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool}


class MultiTaskDataSample(BaseDataElement):
    """Labels and predictions of one picture, by task name.

    Attributes:
        gt (dict[str, Tensor]): labels; a task that has none is absent. Landmarks: (P, 2) float,
            x and y as fractions of the crop's width and height, NaN for a missing point. Classes:
            () int64. Binary attributes: (A,) float, 0 or 1. Values: (V,) float64.
        pred (dict[str, Tensor]): predictions of each head: (P, 2) fractions of the crop, (C,) class
            or (A,) attribute probabilities, (V,) values.
        hidden (dict[str, Tensor]): (d,) inputs of each task's last layer.
        output (dict[str, Tensor]): (d,) predictions of each head, in the form of its loss target.
        logits (dict[str, Tensor]): (d,) raw output of each head.
        target (dict[str, Tensor]): (d,) loss target of each head; a task without label is absent.

    Metainfo: ``img_path``, ``ori_shape`` (height, width in pixels), ``box`` (x0, y0, x1, y1 of the
    crop in the picture's pixels), ``box_source`` (how the box was made), ``tasks`` (`Task` by
    name, as the data set describes them).

    Pickling stores CPU tensors as arrays: a data-loader worker would pass each tensor as a
    shared-memory file.
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
    """A pickled tensor."""

    array: np.ndarray

    @classmethod
    def of(cls, value: object) -> object:
        plain = isinstance(value, torch.Tensor) and value.dtype in PLAIN_DTYPES
        if not plain or value.device.type != "cpu" or value.requires_grad:
            return value
        return cls(value.numpy())


class MultiTaskBatch(BaseDataElement):
    """Labels and predictions of a batch, task by task; a sequence of :class:`MultiTaskDataSample`.

    Indexing or iterating builds data samples, for code that does not take batches. It is a
    ``BaseDataElement`` so that MMEngine moves it between devices.

    Args:
        tasks (Mapping[str, Task]): the tasks by name.
        matrix (Tensor): (N, D) targets of all tasks, concatenated, 0 for a missing label; float64
            if the labels of a task are, else float32.
        mask (Tensor): (N, T) bool, False if a task has no label at all.
        meta (Mapping[str, list]): N entries by key, None where a sample has none.
        fields (Mapping[str, Mapping[str, Tensor]]): model outputs by field ('pred', 'hidden',
            'output', 'logits', 'target') and task, (N, ...).
        parts (Mapping[str, Tensor]): (N, width) bool by task, False for a missing entry of a
            target; only for tasks with incomplete labels in this batch.

    Attributes:
        targets (dict[str, Tensor]): (N, width) by task, float64 if the labels are, else float32.
        masks (dict[str, Tensor]): (N,) bool by task, the columns of ``mask``.
        complete (frozenset[str]): tasks known on the host to have all labels in this batch.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        matrix: torch.Tensor,
        mask: torch.Tensor,
        meta: Mapping[str, list] | None = None,
        fields: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
        parts: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.tasks, self.matrix, self.mask = dict(tasks), matrix, mask
        self.meta, self.fields, self.parts = dict(meta or {}), dict(fields or {}), dict(parts or {})
        widths = [task.width for task in self.tasks.values()]
        columns = zip(self.tasks.items(), matrix.split(widths, 1), strict=True)
        self.targets = {
            name: own if task.target_dtype is np.float64 else own.float()
            for (name, task), own in columns
        }
        self.masks = dict(zip(self.tasks, mask.unbind(1), strict=True))
        on_host = mask.device.type == "cpu"  # reading values from a device synchronises
        labelled = zip(self.tasks, mask.all(0).tolist(), strict=True) if on_host else ()
        self.complete = frozenset(t for t, all_are in labelled if all_are and t not in self.parts)
        self._arrays: dict[tuple[str, str], np.ndarray] = {}

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls, samples: Sequence[MultiTaskDataSample], tasks: Mapping[str, Task]
    ) -> MultiTaskBatch:
        """Make the batch of the labels of some samples.

        Raises:
            DataError: a label does not fit its task.
        """
        dtype = np.result_type(np.float32, *(task.target_dtype for task in tasks.values()))
        matrix = np.zeros((len(samples), sum(t.width for t in tasks.values())), dtype)
        mask = np.zeros((len(samples), len(tasks)), bool)
        start, parts = 0, {}
        for column, (name, task) in enumerate(tasks.items()):
            labels = [sample.gt.get(name) for sample in samples]
            rows = [row for row, label in enumerate(labels) if label is not None]
            if rows:
                own = slice(start, start + task.width)
                targets = task.targets([_on_host(labels[row]) for row in rows], dtype)
                if np.isnan(targets.sum()):  # faster than isnan of all
                    present = np.zeros((len(samples), task.width), bool)
                    present[rows] = ~np.isnan(targets)
                    parts[name] = torch.from_numpy(present)
                    targets = np.nan_to_num(targets, nan=0.0)
                matrix[rows, own] = targets
                mask[rows, column] = True
            start += task.width
        keys = dict.fromkeys(key for sample in samples for key in sample.metainfo_keys())
        meta = {key: [sample.get(key) for sample in samples] for key in keys if key != "tasks"}
        return cls(tasks, torch.from_numpy(matrix), torch.from_numpy(mask), meta, parts=parts)

    def labels(self, task: str) -> list:
        """Labels of the samples as arrays on the host; None for a missing one."""
        if task not in self.tasks:
            return [None] * len(self)
        if ("labels", task) not in self._arrays:
            targets = self.targets[task].cpu().numpy()
            if task in self.parts:
                targets = np.where(self.parts[task].cpu().numpy(), targets, np.nan)
            labels = zip(self.tasks[task].decode(targets), self.masks[task].tolist(), strict=True)
            self._arrays["labels", task] = [v if present else None for v, present in labels]
        return self._arrays["labels", task]

    def whole(self, task: str) -> torch.Tensor:
        """(N,) bool: samples with a complete label of a task."""
        mask = self.masks[task]
        return mask & self.parts[task].all(1) if task in self.parts else mask

    def array(self, field: str, task: str) -> np.ndarray:
        """A field as an array on the host, (N, ...); bfloat16 becomes float32."""
        if (field, task) not in self._arrays:
            values = self.fields[field][task].detach()
            values = values.float() if values.is_floating_point() else values
            self._arrays[field, task] = values.cpu().numpy()
        return self._arrays[field, task]

    def with_fields(self, **fields: Mapping[str, torch.Tensor]) -> MultiTaskBatch:
        """The same batch with fields added."""
        fields = {**self.fields, **fields}
        return MultiTaskBatch(self.tasks, self.matrix, self.mask, self.meta, fields, self.parts)

    def give_to(self, samples: Sequence[MultiTaskDataSample]) -> Sequence[MultiTaskDataSample]:
        """Copy the fields to the samples, row by row; returns the samples."""
        for row, sample in enumerate(samples):
            for field in self.fields:
                sample.set_field(self._row(field, row), field)
        return samples

    def _row(self, field: str, row: int) -> dict[str, torch.Tensor]:
        known = self.tasks if field == "target" else {}
        return {
            task: values[row]
            for task, values in self.fields[field].items()
            if task not in known or self.whole(task)[row]
        }

    def to(self, *args, **kwargs) -> MultiTaskBatch:
        """Like ``Tensor.to`` for all tensors of the batch; float32 on MPS, which lacks float64."""
        device = kwargs.get("device", args[0] if args else None)
        if str(device).startswith("mps"):
            kwargs["dtype"] = torch.float32
        return self._mapped(lambda values: values.to(*args, **kwargs))

    def pin_memory(self) -> MultiTaskBatch:
        """Copy to page-locked memory, for data loaders with ``pin_memory``."""
        return self._mapped(lambda values: values.pin_memory())

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> MultiTaskBatch:
        fields = {
            field: {task: change(value) for task, value in values.items()}
            for field, values in self.fields.items()
        }
        mask = change(self.mask).bool()
        parts = {task: change(part).bool() for task, part in self.parts.items()}
        batch = MultiTaskBatch(self.tasks, change(self.matrix), mask, self.meta, fields, parts)
        batch.complete = self.complete
        return batch

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, row: int | slice) -> MultiTaskDataSample | list[MultiTaskDataSample]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        sample = MultiTaskDataSample()
        for key, values in self.meta.items():
            if values[row] is not None:
                sample.set_field(values[row], key, field_type="metainfo")
        sample.set_field(self.tasks, "tasks", field_type="metainfo")
        labels = {task: self.labels(task)[row] for task in self.tasks}
        sample.gt = {
            task: torch.as_tensor(label, device=self.matrix.device)
            for task, label in labels.items()
            if label is not None
        }
        for field in self.fields:
            sample.set_field(self._row(field, row), field)
        return sample

    def __iter__(self) -> Iterator[MultiTaskDataSample]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"MultiTaskBatch({len(self)} samples, tasks={list(self.tasks)})"

    def __deepcopy__(self, memo: dict) -> MultiTaskBatch:
        return self._mapped(lambda values: values.clone())

    def __reduce__(self):
        # arrays, see MultiTaskDataSample
        arrays = self.matrix.cpu().numpy(), self.mask.cpu().numpy()
        parts = {task: part.cpu().numpy() for task, part in self.parts.items()}
        return _from_arrays, (self.tasks, *arrays, self.meta, self.fields, parts)


def _from_arrays(tasks, matrix: np.ndarray, mask: np.ndarray, *rest) -> MultiTaskBatch:
    meta, fields, parts = rest
    parts = {task: torch.from_numpy(part) for task, part in parts.items()}
    arrays = torch.from_numpy(matrix), torch.from_numpy(mask)
    return MultiTaskBatch(tasks, *arrays, meta, fields, parts)


def _on_host(label: object) -> object:
    return label.detach().cpu() if isinstance(label, torch.Tensor) else label


def relation_sides(relation, key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The two groups of tasks of a relation, ``('a', 'b')`` or ``(('a', 'b'), ('c',))``.

    Raises:
        ConfigError: not a pair, an empty side, or a repeated task; begins with ``key``.
    """
    pair = isinstance(relation, (tuple, list)) and len(relation) == 2
    sides = tuple((s,) if isinstance(s, str) else tuple(s) for s in relation) if pair else ()
    tasks = [task for side in sides for task in side]
    if not pair or not all(isinstance(task, str) for task in tasks):
        raise ConfigError(f"{key}: expected pairs of tasks or groups of tasks, found {relation!r}")
    if not all(sides) or len(set(tasks)) < len(tasks):
        raise ConfigError(f"{key}: expected two different, non-empty sides, found {relation!r}")
    return sides


def relation_name(sides: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    """The name of a relation: ``a-b``, or ``a+b-c`` with groups."""
    return "-".join("+".join(side) for side in sides)
