"""The base class of metrics of a single task."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from trn_plugin.errors import ConfigError
from trn_plugin.structures import MultiTaskBatch
from trn_plugin.tasks import Task, read_task

__all__ = ["TaskMetric", "key_name", "listed", "table", "to_array", "warn"]

Samples = MultiTaskBatch | Sequence[dict]
"""Input of a metric: a batch, or data samples as dicts."""


def listed(names: Iterable) -> str:
    """Names for a message; ``none`` if there are none."""
    return ", ".join(map(str, names)) or "none"


def key_name(name: str) -> str:
    """A class or attribute name as part of a metric key: no blanks, no slashes."""
    return "_".join(str(name).replace("/", " ").split())


def to_array(value: torch.Tensor | np.ndarray) -> np.ndarray:
    """Copy to a CPU array; float16 and bfloat16 become float32."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        half = value.dtype in (torch.float16, torch.bfloat16)
        value = (value.float() if half else value).numpy()
    return np.array(value)


def warn(message: str) -> None:
    """Log a warning to MMEngine's current logger."""
    print_log(message, logger="current", level=logging.WARNING)


def table(header: list[str], rows: list[list[str]], left: tuple[int, ...] = (0,)) -> str:
    """Format a table as text, right-aligned except the columns ``left``."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


class TaskMetric(BaseMetric):
    """A metric of one task: looks up and checks its description, labels and predictions.

    Args:
        task: Name of the task; also the prefix of the metric's keys unless ``prefix`` is given.
        dataset: If the loader mixes several data sets, the one whose pictures count
            (``metainfo['dataset']``); also prefixes the keys. None counts all.
        collect_device, prefix, collect_dir: See :class:`mmengine.evaluator.BaseMetric`.

    Attributes:
        described (dict[str, Task]): the data set's tasks that the metric needs; empty if the
            metainfo has no tasks.
        directions (dict[str, str]): whether 'greater' or 'less' is better, by measure; an entry
            also applies to longer names that begin with it and an underscore.
    """

    task_type: type[Task]
    takes_batches = True
    directions: dict[str, str] = {}

    def __init__(
        self,
        task: str,
        dataset: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        own = task if dataset is None else f"{dataset}/{task}"
        super().__init__(collect_device, prefix or own, collect_dir)
        self.task = task
        self.dataset = dataset
        self.described: dict[str, Task] = {}

    @property
    def predicted_tasks(self) -> tuple[str, ...]:
        """The tasks whose predictions are read."""
        return (self.task,)

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        """Set and check the metainfo, while the loop is built.

        Raises:
            ConfigError: it lacks the task or the data set, or the task is of another kind.
        """
        self._dataset_meta = dataset_meta
        meta, where = dataset_meta or {}, type(self).__name__
        tasks = meta.get("tasks")
        self.described = {}
        for task, wanted in self._needed_tasks().items() if tasks else ():
            if task not in tasks:
                raise ConfigError(
                    f"{where}: expected one of the data set's tasks ({listed(tasks)}), "
                    f"found {task!r}"
                )
            if tasks[task]["kind"] != wanted.kind:
                raise ConfigError(
                    f"{where}: expected a task of kind {wanted.kind!r}, "
                    f"found {task!r} of kind {tasks[task]['kind']!r}"
                )
            self.described[task] = read_task(task, tasks[task], "the data set's task ")
        known = meta.get("datasets", [meta["dataset"]] if "dataset" in meta else [])
        if self.dataset is not None and known and self.dataset not in known:
            raise ConfigError(
                f"{where}.dataset: expected one of {listed(known)}, found {self.dataset!r}"
            )

    def _needed_tasks(self) -> dict[str, type[Task]]:
        """Kinds of the tasks that the data set must have, by name."""
        return dict.fromkeys(self.predicted_tasks, self.task_type)

    def process(self, data_batch: object, data_samples: Samples) -> None:
        """Store (prediction, label or None) of each picture."""
        predictions, labels = self.predictions(data_samples), self.labels(data_samples)
        self.results.extend(zip(predictions, labels, strict=True))

    def _names(self, task: str, count: int) -> Sequence[str]:
        """Names from the data set; numbers if it has none."""
        if task in self.described:
            return self.described[task].names
        return [str(index) for index in range(count)]

    def predictions(self, samples: Samples, task: str | None = None) -> Sequence[np.ndarray]:
        """Predictions of N pictures."""
        task = task or self.task
        if not len(samples):
            return []
        is_batch = isinstance(samples, MultiTaskBatch)
        known = samples.fields["pred"] if is_batch else samples[0]["pred"]
        if task not in known:
            raise ConfigError(
                f"{type(self).__name__}: expected one of the model's tasks "
                f"({listed(known)}), found {task!r}"
            )
        if is_batch:
            found = samples.array("pred", task)
        else:
            found = [to_array(sample["pred"][task]) for sample in samples]
        described = self.described.get(task)
        if described and found[0].shape != described.output_shape:
            raise ConfigError(
                f"{type(self).__name__}: the data set's {task!r} has {len(described.names)} "
                f"entries ({listed(described.names)}), the model predicts {len(found[0])}"
            )
        return found

    def labels(self, samples: Samples, task: str | None = None) -> list[np.ndarray | None]:
        """Labels of N pictures; None for a missing one, or one of another data set."""
        task = task or self.task
        if isinstance(samples, MultiTaskBatch):
            labels = samples.labels(task)
        else:
            labels = [sample["gt"].get(task) for sample in samples]
            labels = [None if label is None else to_array(label) for label in labels]
        if self.dataset is None:
            return labels
        owners = self.meta(samples, "dataset")
        return [
            label if owner == self.dataset else None
            for label, owner in zip(labels, owners, strict=True)
        ]

    def meta(self, samples: Samples, key: str, default: object = None) -> list:
        """One metainfo entry of N pictures.

        Raises:
            ConfigError: it is missing and there is no default.
        """
        if isinstance(samples, MultiTaskBatch):
            found, known = samples.meta.get(key, [None] * len(samples)), samples.meta
        else:
            found = [sample.get(key) for sample in samples]
            known = samples[0] if samples else {}
        if default is None and any(value is None for value in found):
            raise ConfigError(
                f"{type(self).__name__}: expected {key!r} in the samples' metainfo, found "
                f"{listed(known)}; add it to meta_keys of PackMultiTaskInputs"
            )
        return [default if value is None else value for value in found]
