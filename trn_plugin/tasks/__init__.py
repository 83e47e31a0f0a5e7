"""What a task is: names, loss targets, mirror, units, and how predictions are written and drawn.

NumPy only: training and deployment share it. One file a kind of task; a kind of your own is a
subclass of :class:`Task` under ``@TASKS.register``, see :mod:`trn_plugin.tasks.base`.
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
