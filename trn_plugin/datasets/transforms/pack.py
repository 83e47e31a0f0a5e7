"""From a pipeline's results to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trn_plugin.datasets.transforms._cropped import refuse_moved_labels, require_crop
from trn_plugin.registry import TRANSFORMS
from trn_plugin.structures import MultiTaskDataSample

__all__ = ["PackMultiTaskInputs"]

META_KEYS = ("img_path", "ori_shape", "box", "box_source", "unreadable", "dataset")


@TRANSFORMS.register_module()
class PackMultiTaskInputs:
    """Make ``dict(inputs, data_samples)`` of a cropped sample.

    ``inputs`` is a (3, H, W) tensor, 0..255, of the crop's type (uint8 after
    `Albumentations`, else float32); ``data_samples`` a `MultiTaskDataSample` whose ``gt``
    holds landmarks as (P, 2) float32 fractions of the crop, classes as () int64, attributes as
    (A,) float32 and values as (V,) float64. A task without label is absent.
    `multi_task_collate` makes a batch of them.

    Args:
        meta_keys: what of the results becomes the sample's metainfo.

    Raises:
        ConfigError: if the transform stands before `CropResize`, or labels did not follow what
            another package's transform did to the crop.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = META_KEYS,
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def __call__(self, results: dict) -> dict:
        require_crop(results, "PackMultiTaskInputs")
        refuse_moved_labels(results, "PackMultiTaskInputs")
        # a view: collating copies it into the batch anyway
        image = torch.from_numpy(np.ascontiguousarray(results["img"]).transpose(2, 0, 1))
        sample = MultiTaskDataSample()
        for key in self.meta_keys:
            if key in results:  # as set_metainfo does, without its deep copy
                sample.set_field(results[key], key, field_type="metainfo")
        tasks = results["tasks"]
        sample.gt = {
            task: torch.from_numpy(np.asarray(label, dtype=tasks[task].dtype))
            for task, label in results["gt"].items()
        }
        sample.set_field(tasks, "tasks", field_type="metainfo")
        return dict(inputs=image, data_samples=sample)

    def __repr__(self) -> str:
        return f"PackMultiTaskInputs(meta_keys={self.meta_keys})"
