"""Registry of the kinds of task."""

from __future__ import annotations

from collections.abc import Mapping

from trn_plugin.errors import ConfigError
from trn_plugin.tasks.base import Task

__all__ = ["TASKS", "read_task", "read_tasks"]


class Kinds(dict):
    """Task classes by kind."""

    def register(self, task: type[Task]) -> type[Task]:
        """Class decorator that adds a kind, or replaces the class of a known one."""
        self[task.kind] = task
        return task

    def named(self, kind: object, where: str) -> type[Task]:
        """The class of a kind.

        Raises:
            ConfigError: the kind is not registered; the message begins with ``where``.
        """
        if not isinstance(kind, str) or kind not in self:
            raise ConfigError(
                f"{where}: expected one of the kinds {', '.join(self)}, found {kind!r}; import "
                "the file of a kind of your own: custom_imports in a config, or "
                "trn-plugin predict --import FILE.py"
            )
        return self[kind]


TASKS = Kinds()
"""All kinds of task; ``@TASKS.register`` adds a subclass of :class:`Task`."""


def read_task(name: str, info: Mapping, where: str = "task ") -> Task:
    """Make the task that a plain dict describes.

    Raises:
        ConfigError: an unknown kind, or invalid entries.
    """
    kind = info.get("kind") if isinstance(info, Mapping) else None
    return TASKS.named(kind, f"{where}{name}")(name, info)


def read_tasks(infos: Mapping[str, Mapping], where: str = "task ") -> dict[str, Task]:
    """:func:`read_task` of each."""
    return {name: read_task(name, info, where) for name, info in infos.items()}
