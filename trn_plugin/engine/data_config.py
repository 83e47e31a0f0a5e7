"""Data sets in a config, and one ``input_size`` for them and the backbone."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import Config

from trn_plugin.errors import ConfigError
from trn_plugin.registry import DATA_SAMPLERS, DATASETS

__all__ = ["datasets_in", "plain_datasets_in", "spread_input_size", "with_draws"]


def datasets_in(config: object) -> Iterator[dict]:
    """A data set's config, and those of the data sets that it wraps."""
    if isinstance(config, (list, tuple)):
        for each in config:
            yield from datasets_in(each)
    elif isinstance(config, dict):
        yield config
        for key in ("dataset", "datasets"):
            yield from datasets_in(config.get(key))


def plain_datasets_in(config: object) -> Iterator[dict]:
    """Those of `datasets_in` that wrap no other: they have a pipeline."""
    return (each for each in datasets_in(config) if not {"dataset", "datasets"} & each.keys())


def with_draws(loader: dict) -> dict:
    """The config of a loader whose samples know in which epoch and for which draw they are read.

    A sampler that yields plain indices is put into `NumberedDraws`, a data set that knows no draws
    into `DrawnDataset`, as those within it may know them.
    """
    loader = dict(loader)
    sampler, dataset = loader.get("sampler"), loader.get("dataset")
    if sampler is not None and not _has(DATA_SAMPLERS, sampler, "yields_draws"):
        loader["sampler"] = dict(type="trn_plugin.NumberedDraws", sampler=sampler)
    if dataset is not None and not _has(DATASETS, dataset, "takes_draws"):
        loader["dataset"] = dict(type="trn_plugin.DrawnDataset", dataset=dataset)
    return loader


def _has(registry, config: object, mark: str) -> bool:
    """Whether what a config describes has an attribute; one that names no class is left alone."""
    if not isinstance(config, dict):
        return hasattr(config, mark)
    kind = config.get("type")
    kind = registry.get(kind) if isinstance(kind, str) else kind
    return kind is None or hasattr(kind, mark)


def spread_input_size(config: Config) -> None:
    """Make ``input_size`` at the top of a config that of the data sets and of the backbone."""
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
        raise ConfigError(f"model.backbone: expected a dict, found {backbone!r}")
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
