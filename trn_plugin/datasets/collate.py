"""Collate packed samples into one batch, in the data loader's workers."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.dataset import default_collate

from trn_plugin.errors import DataError
from trn_plugin.registry import FUNCTIONS
from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample
from trn_plugin.tasks import Task

__all__ = ["multi_task_collate"]


@FUNCTIONS.register_module()
def multi_task_collate(samples: Sequence[dict], _scope_: str | None = None) -> dict:
    """Stack pictures, targets and masks.

    Args:
        samples (Sequence[dict]): outputs of `PackMultiTaskInputs`.
        _scope_ (str, optional): ignored; MMEngine adds it to configs of another package.

    Returns:
        dict: ``inputs`` (N, 3, H, W); ``data_samples``, a `MultiTaskBatch` with the tasks of all
        samples; and their other entries. MMEngine's ``default_collate`` collates other samples.

    Raises:
        DataError: pictures of different sizes, a label that does not fit its task, or two data sets
            that describe a task differently.
    """
    packed = [sample.get("data_samples") for sample in samples]
    if not all(isinstance(each, MultiTaskDataSample) and "tasks" in each for each in packed):
        return default_collate(samples)
    pictures = [sample["inputs"] for sample in samples]
    shapes = {tuple(picture.shape) for picture in pictures}
    if len(shapes) > 1:
        raise DataError(f"pictures of one batch differ in shape: {sorted(shapes)}")
    others = [
        {key: value for key, value in sample.items() if key not in ("inputs", "data_samples")}
        for sample in samples
    ]
    return {
        "inputs": default_collate(pictures),
        "data_samples": MultiTaskBatch.of(packed, _all_tasks(packed)),
        **(default_collate(others) if others[0] else {}),
    }


def _all_tasks(samples: Sequence[MultiTaskDataSample]) -> dict[str, Task]:
    """The tasks of all samples, which may come from several data sets."""
    tasks = dict(samples[0].tasks)
    for sample in samples:
        for name, task in sample.tasks.items():
            known = tasks.setdefault(name, task)
            if known is not task and known.exported() != task.exported():
                raise DataError(
                    f"task {name}: two data sets of a batch describe it differently, {known} and "
                    f"{task}"
                )
        unknown = sample.gt.keys() - tasks.keys()
        if unknown:
            raise DataError(
                f"{sample.get('img_path', 'a sample')}: its data set describes no task "
                f"{min(unknown)!r}, only {', '.join(tasks)}"
            )
    return tasks
