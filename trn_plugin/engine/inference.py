"""Load a trained model and its data without a runner."""

from __future__ import annotations

import copy
import itertools

from mmengine.config import Config
from torch import nn

from trn_plugin.checkpoints import load_checkpoint_file, load_model_state
from trn_plugin.config_checks import config_errors
from trn_plugin.engine.data_config import plain_datasets_in
from trn_plugin.errors import ConfigError
from trn_plugin.registry import MODELS, RUNNERS

__all__ = ["build_loader", "build_model", "load_model"]


def build_model(config: Config) -> nn.Module:
    """The config's model with random weights, in eval mode, without its neck.

    Raises:
        ConfigError: it cannot be built.
    """
    if "backbone" not in (config.get("model") or {}):
        raise ConfigError("config: has no model.backbone")
    settings = config.model.to_dict()
    settings["backbone"]["pretrained"] = False
    settings["backbone"].pop("checkpoint_path", None)
    settings["neck"] = None
    with config_errors("model"):
        return MODELS.build(settings).eval()


def load_model(config: Config, checkpoint_path: str) -> tuple[nn.Module, dict]:
    """Build the config's model and load a checkpoint into it.

    Args:
        config: from ``cli.load_config``.
        checkpoint_path: a checkpoint of that config's model.

    Returns:
        The model of :func:`build_model`, without the neck, and the checkpoint's metadata.

    Raises:
        ConfigError: the config's model cannot be built.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    model, checkpoint = build_model(config), load_checkpoint_file(checkpoint_path)
    load_model_state(model, checkpoint["state_dict"], checkpoint_path)
    return model, checkpoint["meta"]


def build_loader(config: Config, split: str):
    """The data loader of a split for evaluation: all samples, in order.

    'train' gives the training set, read with the validation set's loader and pipeline, without
    augmentation.

    Raises:
        ConfigError: the config lacks the split, or it cannot be built.
    """
    needed = ("train", "val") if split == "train" else (split,)
    for name in needed:
        if not config.get(f"{name}_dataloader"):
            raise ConfigError(f"config: has no {name}_dataloader")
    loader = copy.deepcopy(config[f"{needed[-1]}_dataloader"])
    if split == "train":
        evaluated = list(plain_datasets_in(loader.dataset)) or [{}]
        loader.dataset = copy.deepcopy(config.train_dataloader.dataset)
        trained = list(plain_datasets_in(loader.dataset))
        for dataset, like in zip(trained, itertools.cycle(evaluated), strict=False):
            dataset["pipeline"] = like.get("pipeline", [])
    runner = RUNNERS.get(config.get("runner_type", "SafeRunner"))
    with config_errors(f"{split}_dataloader"):
        return runner.build_dataloader(loader)
