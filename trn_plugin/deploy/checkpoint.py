"""Rebuild the model of a config and a checkpoint for export."""

from __future__ import annotations

from numbers import Number
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from trn_plugin.deploy.export import describe_model
from trn_plugin.errors import ConfigError
from trn_plugin.registry import MODELS

__all__ = ["load_for_export"]


def load_for_export(
    config_path: str, checkpoint_path: str, cfg_options: dict | None = None
) -> tuple[nn.Module, tuple[int, int], dict]:
    """Build the config's model and load the checkpoint into it.

    Returns:
        tuple: the model in eval mode on the CPU, without its neck; the (height, width) of its
        input in pixels; its metadata, see :func:`trn_plugin.deploy.export.describe_model`.

    Raises:
        ConfigError: if the config cannot be read or built.
        CheckpointError: if the checkpoint cannot be read or belongs to another model.
    """
    from trn_plugin.engine import load_checkpoint_file, load_model_state

    config = _read_config(config_path, cfg_options)
    checkpoint = load_checkpoint_file(checkpoint_path, map_location="cpu")
    init_default_scope(config.get("default_scope", "trn_plugin"))
    config.model.backbone.pretrained = False
    model = MODELS.build(config.model)
    load_model_state(model, checkpoint, checkpoint_path)
    # It only measures in training, and its running covariances may outweigh the network.
    model.neck = None
    model.eval()

    meta = checkpoint.get("meta") or {}
    dataset_meta = meta.get("dataset_meta") or {}
    metrics = {
        key: value
        for key, value in (meta.get("metrics") or {}).items()
        if isinstance(value, Number)
    }
    input_size = tuple(model.backbone.img_size)
    metadata = describe_model(model, input_size, dataset_meta.get("tasks"), metrics)
    return model, input_size, metadata


def _read_config(path: str, cfg_options: dict | None) -> Config:
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        config = Config.fromfile(path)
        if cfg_options:
            config.merge_from_dict(cfg_options)
    except Exception as error:  # a config is Python: anything can go wrong in it
        raise ConfigError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    if "backbone" not in config.get("model", {}):
        raise ConfigError(f"{path}: has no model.backbone to export")
    return config
