"""One ``input_size`` for all data sets of a config and the backbone."""

from __future__ import annotations

from mmengine.config import Config

from trn_plugin.engine.data_config import datasets_in
from trn_plugin.errors import ConfigError

__all__ = ["spread_input_size"]


def spread_input_size(config: Config) -> None:
    """Make ``input_size`` at the top of a config that of the crops and of the backbone.

    Data sets are found within those that wrap them. Without ``input_size`` nothing changes.

    Raises:
        ConfigError: a model without backbone, or one with another ``img_size``.
    """
    size = config.get("input_size")
    if size is None:
        return
    for part in ("train", "val", "test"):
        loader = config.get(f"{part}_dataloader")
        for dataset in datasets_in(loader.get("dataset") if isinstance(loader, dict) else None):
            if "input_size" in dataset:
                dataset["input_size"] = size
    model = config.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    if not isinstance(backbone, dict):
        raise ConfigError(
            f"model.backbone: expected a dict, as input_size is that of the backbone too, "
            f"got {backbone!r}"
        )
    if backbone.get("img_size", size) != size:
        raise ConfigError(
            f"model.backbone.img_size is {backbone['img_size']}, but input_size is {size}: "
            "set input_size alone"
        )
    backbone["img_size"] = size
