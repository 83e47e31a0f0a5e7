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
    loaders = [config.get(f"{part}_dataloader") for part in ("train", "val", "test")]
    tops = [loader.get("dataset") for loader in loaders if isinstance(loader, dict)]
    sized = [dataset for dataset in datasets_in(tops) if "input_size" in dataset]
    before = {_sides(dataset["input_size"]) for dataset in sized}
    for dataset in sized:
        dataset["input_size"] = size
    model = config.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    if not isinstance(backbone, dict):
        raise ConfigError(
            f"model.backbone: expected a dict, as input_size is that of the backbone too, "
            f"got {backbone!r}"
        )
    # where data sets and backbone agreed before, a new input_size is meant for both
    own = _sides(backbone.get("img_size", size))
    if own != _sides(size) and before != {own}:
        raise ConfigError(
            f"model.backbone.img_size is {backbone['img_size']}, but input_size is {size}: "
            "set input_size alone"
        )
    backbone["img_size"] = size


def _sides(size: object) -> object:
    """One side or two as (height, width)."""
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)
