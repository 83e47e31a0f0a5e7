"""Compare the names of classes, points or attributes of test data and model."""

from __future__ import annotations

import contextlib

from mmengine.hooks import Hook

from trn_plugin.errors import ConfigError, shown
from trn_plugin.registry import HOOKS
from trn_plugin.tasks import Task, read_task

__all__ = ["NamesHook"]


@HOOKS.register_module()
class NamesHook(Hook):
    """Warns if classes, points or attributes of the test data have other names than the model's."""

    priority = "VERY_HIGH"

    def before_test(self, runner) -> None:
        trained_on = runner.trained_on or getattr(runner.bare_model, "dataset_meta", None)
        tested_on = getattr(runner.test_dataloader.dataset, "metainfo", None)
        model, data = _tasks(trained_on), _tasks(tested_on)
        for task in model.keys() & data.keys():
            theirs, ours = list(model[task].names), list(data[task].names)
            if theirs != ours:
                runner.logger.warning(
                    f"{task}: the model was trained with {model[task].noun} {shown(theirs)}, the "
                    f"test data has {shown(ours)}: the metrics may be wrong"
                )


def _tasks(metainfo) -> dict[str, Task]:
    """The valid tasks of a metainfo."""
    infos = metainfo.get("tasks") if isinstance(metainfo, dict) else None
    tasks = {}
    for name, info in infos.items() if isinstance(infos, dict) else ():
        with contextlib.suppress(ConfigError):
            tasks[name] = read_task(name, info)
    return tasks
