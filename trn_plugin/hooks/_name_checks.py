"""Checks of task and level names in the options of a hook."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import nn

from trn_plugin.errors import ConfigError

__all__ = ["check_dict", "check_levels", "check_names", "check_tasks"]


def check_dict(where: str, value) -> None:
    """Refuse anything but a non-empty dict."""
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{where}: expected a non-empty dict, found {value!r}")


def check_names(where: str, names: Iterable[str]) -> None:
    """Refuse names with "loss": MMEngine would add their log entries to the total loss."""
    for name in names:
        if not isinstance(name, str) or "loss" in name:
            raise ConfigError(
                f"{where}: {name!r} cannot be a name here: MMEngine adds up every log entry whose "
                "name contains 'loss'"
            )


def check_levels(where: str, levels: Iterable[str]) -> None:
    """Refuse names that cannot be attributes of ``nn.ModuleDict``, or are reserved."""
    check_names(where, levels)
    for level in levels:
        if not level.isidentifier() or level == "label" or hasattr(nn.ModuleDict, level):
            raise ConfigError(
                f"{where}: {level!r} cannot be a level: expected letters, digits and '_', but "
                "not 'label' or the name of a method of torch.nn.ModuleDict"
            )


def check_tasks(where: str, given: Mapping, tasks: Collection[str]) -> None:
    """Refuse a dict whose keys are not exactly the tasks of the relations."""
    check_dict(where, given)
    if set(given) != set(tasks):
        raise ConfigError(
            f"{where}: expected the tasks of relations, {', '.join(tasks)}, found "
            f"{', '.join(map(str, given))}"
        )
