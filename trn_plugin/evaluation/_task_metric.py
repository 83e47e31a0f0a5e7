"""What the metrics of a single task share."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from trn_plugin.errors import ConfigError

__all__ = ["TaskMetric", "key_name", "listed", "table", "to_array", "warn"]


def listed(names: Iterable) -> str:
    """Names as they are quoted in messages; ``none`` if there is none."""
    return ", ".join(map(str, names)) or "none"


def key_name(name: str) -> str:
    """A class or attribute name as part of a metric key: no blanks, no slashes."""
    return "_".join(str(name).replace("/", " ").split())


def to_array(value: torch.Tensor | np.ndarray) -> np.ndarray:
    """A small CPU copy that keeps no batch alive; bfloat16, which numpy lacks, becomes float32."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.array(value)


def warn(message: str) -> None:
    """Log a warning to MMEngine's current logger."""
    print_log(message, logger="current", level=logging.WARNING)


def table(header: list[str], rows: list[list[str]], left: tuple[int, ...] = (0,)) -> str:
    """Columns of text, right-aligned but for those in ``left``."""
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
    """A metric of one task: finds its description, labels and predictions or says what is wrong.

    Args:
        task: Name of the task; also the prefix of the metric's keys unless ``prefix`` is given.
        collect_device, prefix, collect_dir: See :class:`mmengine.evaluator.BaseMetric`.

    Attributes:
        directions (dict[str, str]): 'greater' or 'less', what is better, by the name of a measure;
            also of those that go on with an underscore.
    """

    kind: str
    directions: dict[str, str] = {}

    def __init__(
        self,
        task: str,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix or task, collect_dir)
        self.task = task

    @property
    def predicted_tasks(self) -> tuple[str, ...]:
        """The tasks whose predictions it reads."""
        return (self.task,)

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        """Take the data set's metainfo; refuse one in which the task is absent or of another kind.

        Raises:
            ConfigError: here, while the loop is built, rather than after the evaluation.
        """
        self._dataset_meta = dataset_meta
        if dataset_meta and "tasks" in dataset_meta:
            self._check_tasks()

    def _check_tasks(self) -> None:
        self._description(self.task, self.kind)

    def _description(self, task: str, kind: str) -> dict:
        """``metainfo['tasks'][task]``; empty if the data set describes no tasks."""
        tasks = (self.dataset_meta or {}).get("tasks", {})
        if not tasks:
            return {}
        name = type(self).__name__
        if task not in tasks:
            raise ConfigError(
                f"{name}: expected one of the data set's tasks ({listed(tasks)}), found {task!r}"
            )
        if tasks[task]["kind"] != kind:
            raise ConfigError(
                f"{name}: expected a task of kind {kind!r}, "
                f"found {task!r} of kind {tasks[task]['kind']!r}"
            )
        return tasks[task]

    def _prediction(self, sample: dict, task: str | None = None) -> np.ndarray:
        task = task or self.task
        if task not in sample["pred"]:
            raise ConfigError(
                f"{type(self).__name__}: expected one of the model's tasks "
                f"({listed(sample['pred'])}), found {task!r}"
            )
        prediction = to_array(sample["pred"][task])
        described = self._description(task, self.kind)
        names = described.get("classes") or described.get("names")
        if names and len(names) != len(prediction):
            raise ConfigError(
                f"{type(self).__name__}: the data set's {task!r} has {len(names)} entries "
                f"({listed(names)}), the model predicts {len(prediction)}"
            )
        return prediction

    def _label(self, sample: dict, task: str | None = None) -> np.ndarray | None:
        value = sample["gt"].get(task or self.task)
        return None if value is None else to_array(value)
