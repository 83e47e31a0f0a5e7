"""Data, model and metrics of a config that do not fit together."""

from __future__ import annotations

from mmengine.evaluator import Evaluator
from torch import nn
from torch.utils.data import DataLoader

from trn_plugin.engine.building import config_errors
from trn_plugin.engine.data_config import datasets_in
from trn_plugin.errors import ConfigError
from trn_plugin.registry import DATASETS

__all__ = ["check_metrics", "check_roots", "check_training_set"]


def check_roots(loaders: dict) -> None:
    """Refuse a data root that is not there, before anything expensive is begun.

    ``loaders`` are configs by 'train', 'val' and 'test'; a training does not need the test set.
    """
    for name in ("train", "val") if loaders["train"] is not None else ("val", "test"):
        loader = loaders[name]
        for dataset in datasets_in(loader.get("dataset") if isinstance(loader, dict) else None):
            kind = dataset.get("type")
            kind = DATASETS.get(kind) if isinstance(kind, str) else kind
            if "data_root" in dataset and hasattr(kind, "check_root"):
                with config_errors(f"{name}_dataloader.dataset"):
                    DATASETS.build({**dataset, "lazy_init": True}).check_root()


def check_training_set(loader: DataLoader, model: nn.Module) -> None:
    """Refuse an epoch without a batch, and data that do not fit the model; fit the heads to them."""
    if len(loader) == 0:
        raise ConfigError(
            f"train_dataloader: {len(loader.dataset)} samples give no batch of "
            f"{loader.batch_size} with drop_last={loader.drop_last}"
        )
    if not hasattr(model, "check_dataset"):  # of another project
        return
    model.check_dataset(getattr(loader.dataset, "metainfo", {}))
    model.fit_to_labels(loader.dataset)
    sample = loader.dataset[0]
    if not isinstance(sample, dict) or "inputs" not in sample:
        found = ", ".join(map(str, sample)) if isinstance(sample, dict) else type(sample).__name__
        raise ConfigError(
            f"train_dataloader.dataset.pipeline: expected samples with 'inputs', found {found}; "
            "does it end with PackMultiTaskInputs?"
        )


def check_metrics(evaluator: Evaluator, model: nn.Module) -> None:
    """Refuse a metric of a task that the model has not, which only an evaluation would meet."""
    tasks = getattr(model, "tasks", None)
    for metric in evaluator.metrics if tasks is not None else ():
        for task in getattr(metric, "predicted_tasks", ()):
            if task not in tasks:
                raise ConfigError(
                    f"{type(metric).__name__}: expected one of the model's tasks "
                    f"({', '.join(tasks)}), found {task!r}"
                )
