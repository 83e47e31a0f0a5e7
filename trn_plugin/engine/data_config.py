"""Prepare the config's data sets, and check them against the model and its metrics."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.evaluator import Evaluator
from torch import nn

from trn_plugin.config_checks import config_errors
from trn_plugin.errors import ConfigError
from trn_plugin.registry import DATA_SAMPLERS, DATASETS

__all__ = [
    "check_metrics",
    "check_roots",
    "check_training",
    "datasets_in",
    "plain_datasets_in",
    "spread_input_size",
    "with_draws",
]


def datasets_in(config: object) -> Iterator[dict]:
    """Iterate over a data set's config and those of the data sets that it wraps."""
    if isinstance(config, (list, tuple)):
        for each in config:
            yield from datasets_in(each)
    elif isinstance(config, dict):
        yield config
        for key in ("dataset", "datasets"):
            yield from datasets_in(config.get(key))


def plain_datasets_in(config: object) -> Iterator[dict]:
    """The configs of `datasets_in` that wrap no other data set; these have a pipeline."""
    return (each for each in datasets_in(config) if not {"dataset", "datasets"} & each.keys())


def with_draws(loader: dict) -> dict:
    """Wrap a loader's config so that its samples are read by `SampleDraw`, not by index."""
    loader = dict(loader)
    sampler, dataset = loader.get("sampler"), loader.get("dataset")
    for each in datasets_in(dataset):
        outer, inner = _kind(DATASETS, each), _kind(DATASETS, each.get("dataset"))
        if outer is ClassBalancedDataset and inner in (ConcatDataset, RepeatDataset):
            raise ConfigError(
                f"ClassBalancedDataset: {inner.__name__} has no get_cat_ids: use DrawnDataset"
            )
    if sampler is not None and not _has(DATA_SAMPLERS, sampler, "yields_draws"):
        loader["sampler"] = dict(type="trn_plugin.NumberedDraws", sampler=sampler)
    if dataset is not None and not _has(DATASETS, dataset, "takes_draws"):
        loader["dataset"] = dict(type="trn_plugin.DrawnDataset", dataset=dataset)
    return loader


def _has(registry, config: object, attribute: str) -> bool:
    """Whether a config's class has an attribute; True if it names no class."""
    kind = _kind(registry, config) if isinstance(config, dict) else config
    return kind is None or hasattr(kind, attribute)


def _kind(registry, config: object) -> object:
    """The class that a config names; None if there is none."""
    kind = config.get("type") if isinstance(config, dict) else None
    return registry.get(kind) if isinstance(kind, str) else kind


def spread_input_size(config: Config) -> None:
    """Copy a config's top-level ``input_size`` to the data sets and the backbone."""
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
    # input_size overrides sizes of the data sets and of the backbone that are equal
    own = _sides(backbone.get("img_size", size))
    if own != _sides(size) and before != {own}:
        raise ConfigError(
            f"model.backbone.img_size is {backbone['img_size']}, but input_size is {size}: "
            "set input_size alone"
        )
    backbone["img_size"] = size


def _sides(size: object) -> object:
    """An input size as (height, width); one number stands for both."""
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def check_roots(loaders: dict) -> None:
    """Refuse a missing data root before expensive work begins.

    ``loaders`` are configs by 'train', 'val' and 'test'; training does not need the test set.
    """
    for name in ("train", "val") if loaders["train"] is not None else ("val", "test"):
        loader = loaders[name]
        for dataset in datasets_in(loader.get("dataset") if isinstance(loader, dict) else None):
            if "data_root" in dataset and hasattr(_kind(DATASETS, dataset), "check_root"):
                with config_errors(f"{name}_dataloader.dataset"):
                    DATASETS.build({**dataset, "lazy_init": True}).check_root()


def check_training(loop, model: nn.Module, logger) -> None:
    """Refuse an empty epoch or data that do not fit the model; fit the heads to the labels.

    Warns if the run is too short for the model's task weighting.
    """
    loader = loop.dataloader
    if len(loader) == 0:
        raise ConfigError(
            f"train_dataloader: {len(loader.dataset)} samples give no batch of "
            f"{loader.batch_size} with drop_last={loader.drop_last}"
        )
    if not hasattr(model, "check_dataset"):  # a model of another package
        return
    model.check_dataset(getattr(loader.dataset, "metainfo", {}))
    model.fit_to_labels(loader.dataset)
    sample = loader.dataset[0]
    packed = isinstance(sample, dict) and "inputs" in sample
    if not packed or not hasattr(sample.get("data_samples"), "gt"):
        found = ", ".join(map(str, sample)) if isinstance(sample, dict) else type(sample).__name__
        raise ConfigError(
            "train_dataloader.dataset.pipeline: expected PackMultiTaskInputs as last step, found "
            f"samples with {found}"
        )
    weighting = model.task_weighting
    if hasattr(weighting, "check_length") and hasattr(loop, "max_iters"):
        weighting.check_length(loop.max_iters, logger)


def check_metrics(evaluator: Evaluator, model: nn.Module) -> None:
    """Refuse a metric of a task that the model does not have, before the first evaluation."""
    tasks = getattr(model, "tasks", None)
    for metric in evaluator.metrics if tasks is not None else ():
        for task in getattr(metric, "predicted_tasks", ()):
            if task not in tasks:
                raise ConfigError(
                    f"{type(metric).__name__}: expected one of the model's tasks "
                    f"({', '.join(tasks)}), found {task!r}"
                )
