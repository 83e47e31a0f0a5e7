"""From packed samples to one batch, in the data loader's workers."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.dataset import default_collate

from trn_plugin.errors import DataError
from trn_plugin.registry import FUNCTIONS
from trn_plugin.structures import MultiTaskBatch

__all__ = ["multi_task_collate"]


@FUNCTIONS.register_module()
def multi_task_collate(samples: Sequence[dict], _scope_: str | None = None) -> dict:
    """Stack pictures, targets and masks.

    Args:
        samples (Sequence[dict]): what `PackMultiTaskInputs` makes of each picture.
        _scope_ (str, optional): ignored; MMEngine adds it to configs of another package.

    Returns:
        dict: ``inputs`` (N, 3, H, W) and ``data_samples``, a `MultiTaskBatch`. Samples of other
        projects go through MMEngine's ``default_collate``.

    Raises:
        DataError: pictures of different sizes, or a label that does not fit its task.
    """
    packed = [sample["data_samples"] for sample in samples if "data_samples" in sample]
    tasks = packed[0].get("tasks") if packed and hasattr(packed[0], "metainfo") else None
    if len(packed) < len(samples) or tasks is None:
        return default_collate(samples)
    pictures = [sample["inputs"] for sample in samples]
    shapes = {tuple(picture.shape) for picture in pictures}
    if len(shapes) > 1:
        raise DataError(f"pictures of one batch differ in shape: {sorted(shapes)}")
    return {"inputs": default_collate(pictures), "data_samples": MultiTaskBatch.of(packed, tasks)}
