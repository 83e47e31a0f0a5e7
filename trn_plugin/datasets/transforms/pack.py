"""Pack a pipeline's results for the model."""

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
    """Pack a cropped sample as ``dict(inputs, data_samples)``, for `multi_task_collate`.

    ``inputs`` is (3, H, W), 0..255, of the crop's dtype: uint8 after `LoadCrop` or
    `Albumentations`, else float32. ``data_samples`` is a `MultiTaskDataSample` whose ``gt`` holds
    landmarks (P, 2) float32 as fractions of the crop, classes () int64, attributes (A,) float32 and
    values (V,) float64. Unlabelled tasks are absent.

    Args:
        meta_keys: entries of the results that become the sample's metainfo.

    Raises:
        ConfigError: no `CropResize` before this step, or labels that did not follow another
            package's transform of the crop.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def __call__(self, results: dict) -> dict:
        require_crop(results, "PackMultiTaskInputs")
        refuse_moved_labels(results, "PackMultiTaskInputs")
        # a view: collating copies it
        image = torch.from_numpy(np.ascontiguousarray(results["img"]).transpose(2, 0, 1))
        sample = MultiTaskDataSample()
        for key in self.meta_keys:
            if key in results:  # set_metainfo without its deep copy
                sample.set_field(results[key], key, field_type="metainfo")
        tasks = results["tasks"]
        sample.gt = {
            task: torch.from_numpy(np.asarray(label, dtype=tasks[task].dtype))
            for task, label in results["gt"].items()
        }
        sample.set_field(tasks, "tasks", field_type="metainfo")
        return dict(inputs=image, data_samples=sample)
