"""Rebuild the model of a config and a checkpoint for export."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.config import Config
from torch import nn

from trn_plugin.deploy.crops import describe_crop
from trn_plugin.deploy.describe import describe_model
from trn_plugin.deploy.scores import scores_of
from trn_plugin.engine.data_config import plain_datasets_in
from trn_plugin.engine.inference import load_model
from trn_plugin.errors import ConfigError
from trn_plugin.registry import TRANSFORMS
from trn_plugin.tasks import Task

__all__ = ["crop_of", "load_for_export"]


def load_for_export(
    config: Config, checkpoint_path: str, metrics_path: str | None = None
) -> tuple[nn.Module, tuple[int, int], dict]:
    """Build the config's model and load the checkpoint into it.

    Args:
        config: from ``cli.load_config``, which sets the default scope.
        checkpoint_path: a checkpoint of the config's model.
        metrics_path: output of ``trn-plugin test --out`` for the metadata, see
            :func:`trn_plugin.deploy.scores.scores_of`.

    Returns:
        tuple: the model in eval mode on the CPU, without its neck; the (height, width) of its
        input in pixels; its metadata, see :func:`trn_plugin.deploy.describe.describe_model`.

    Raises:
        ConfigError: the model cannot be built, or the metrics cannot be read or belong to another
            checkpoint.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    model, meta = load_model(config, checkpoint_path)
    metrics, metrics_of = scores_of(checkpoint_path, meta, metrics_path)
    dataset_meta = meta.get("dataset_meta")
    tasks = dataset_meta.get("tasks") if isinstance(dataset_meta, dict) else None
    input_size = tuple(model.backbone.img_size)
    _check_input_size(config, input_size)
    crop = crop_of(config, [head.task for head in model.heads.values()])
    return model, input_size, describe_model(model, input_size, tasks, metrics, metrics_of, crop)


def crop_of(config: Config, tasks: Sequence[Task]) -> dict | None:
    """The crop of the config's validation or test pictures; None if no transform makes one."""
    points = any(len(task.points(np.zeros(task.label_shape))) > 1 for task in tasks)
    for loader in ("val_dataloader", "test_dataloader"):
        for dataset in plain_datasets_in((config.get(loader) or {}).get("dataset")):
            for step in dataset.get("pipeline", ()):
                kind = step["type"]
                kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
                if hasattr(kind, "crop_rule"):
                    built = TRANSFORMS.build(dict(step))
                    return describe_crop(*built.crop_rule(dataset.get("box"), points))
    return None


def _check_input_size(config: Config, input_size: tuple[int, int]) -> None:
    """Refuse evaluation pictures of another size than the network's input."""
    for loader in ("test_dataloader", "val_dataloader"):
        dataset = (config.get(loader) or {}).get("dataset") or {}
        sizes = [
            transform["size"] for transform in dataset.get("pipeline", ()) if transform.get("size")
        ]
        for size in [*sizes, dataset.get("input_size")]:
            pair = (size, size) if isinstance(size, int) else size
            if pair is not None and tuple(pair) != input_size:
                raise ConfigError(
                    f"{loader}: expected pictures of model.backbone.img_size, {input_size}, found "
                    f"{tuple(pair)}; set input_size at the top of the config for both"
                )
