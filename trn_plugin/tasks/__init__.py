"""Kinds of task. Each defines its labels, loss targets, mirroring, and the text of predictions.

NumPy only, since training and deployment share it. One file per kind. To add a kind, decorate a
subclass of :class:`Task` with ``@TASKS.register``.
"""

from trn_plugin.tasks.attributes import AttributeTask
from trn_plugin.tasks.base import Curve, Line, Task, numbered
from trn_plugin.tasks.classes import ClassTask
from trn_plugin.tasks.columns import LabelColumns
from trn_plugin.tasks.kinds import TASKS, read_task, read_tasks
from trn_plugin.tasks.landmarks import LandmarkTask
from trn_plugin.tasks.numbers import NumbersTask
from trn_plugin.tasks.values import ValueTask

__all__ = [
    "TASKS",
    "AttributeTask",
    "ClassTask",
    "Curve",
    "LabelColumns",
    "LandmarkTask",
    "Line",
    "NumbersTask",
    "Task",
    "ValueTask",
    "numbered",
    "read_task",
    "read_tasks",
]
