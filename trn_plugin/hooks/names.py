"""Test data whose classes, points or attributes are not the model's."""

from __future__ import annotations

from mmengine.hooks import Hook

from trn_plugin.errors import shown
from trn_plugin.registry import HOOKS

__all__ = ["NamesHook"]


@HOOKS.register_module()
class NamesHook(Hook):
    """Says so when classes, points or attributes have other names than the model's."""

    priority = "VERY_HIGH"

    def before_test(self, runner) -> None:
        trained_on = runner.trained_on or getattr(runner.bare_model, "dataset_meta", None)
        model, data = map(_tasks, (trained_on, runner.test_dataloader.dataset.metainfo))
        for task in model.keys() & data.keys():
            for key in ("classes", "names"):
                theirs, ours = (kind.get(key) for kind in (model[task], data[task]))
                listed = all(isinstance(names, (list, tuple)) for names in (theirs, ours))
                if listed and [*theirs] != [*ours]:
                    runner.logger.warning(
                        f"{task}: the model was trained with {key} {shown(list(theirs))}, the "
                        f"test data has {shown(list(ours))}: what it measures may be wrong"
                    )


def _tasks(metainfo) -> dict[str, dict]:
    tasks = metainfo.get("tasks") if isinstance(metainfo, dict) else None
    kinds = tasks.items() if isinstance(tasks, dict) else ()
    return {task: kind for task, kind in kinds if isinstance(kind, dict)}
