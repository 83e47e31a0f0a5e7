"""Evaluate an exported file with the data and metrics of a config."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from trn_plugin.config_checks import config_errors
from trn_plugin.deploy.metadata import FEATURES
from trn_plugin.deploy.model import DeployModel
from trn_plugin.deploy.runtime import TaskPredictor
from trn_plugin.deploy.session import providers_of
from trn_plugin.engine.data_config import plain_datasets_in
from trn_plugin.engine.inference import build_loader
from trn_plugin.errors import ConfigError
from trn_plugin.registry import METRICS, MODELS
from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample

__all__ = [
    "ExportedModel",
    "crop_loader",
    "crops_for_exported",
    "measure",
    "some_crops",
    "use_exported",
]


@MODELS.register_module()
class ExportedModel(BaseModel):
    """An exported file that replaces a ``MultiTaskModel`` for testing.

    It takes crops before resizing, see :func:`use_exported`.

    Args:
        path: the file.
        providers: onnxruntime execution providers; default CUDA if present, then the CPU.

    Raises:
        CheckpointError, ConfigError: see :class:`trn_plugin.deploy.TaskPredictor`.
    """

    def __init__(self, path: str, providers: Sequence[str] | None = None) -> None:
        super().__init__()
        self.predictor = TaskPredictor(path, providers)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.predictor.tasks)

    def forward(self, inputs, data_samples, mode: str = "predict"):
        """See MMEngine's ``BaseModel``.

        Args:
            inputs: (3, h, w) uint8 RGB crops, whose sizes may differ.
            data_samples (list): samples to fill with the predictions.
            mode (str): always predicts.
        """
        crops = [image.permute(1, 2, 0).cpu().numpy() for image in inputs]
        predictor, batch = self.predictor, MultiTaskBatch.of(data_samples, self.predictor.tasks)
        found = predictor.run_each(crops)
        for row, crop in zip(found, crops, strict=True):  # fractions of the crop, as from the heads
            size = np.array(crop.shape[1::-1])
            for name, task in predictor.tasks.items():
                row[name] = task.mapped(row[name], lambda p, by=size: (p / by).astype(np.float32))
        values = {
            name: torch.from_numpy(np.stack([row[name] for row in found])) for name in found[0]
        }
        levels = {
            level: {t: values[f"{level}/{t}"] for t in self.tasks if level in predictor.features}
            for level in FEATURES
        }
        pred = {name: values[name] for name in self.tasks}
        return batch.with_fields(pred=pred, target=batch.targets, **levels).give_to(data_samples)

    def test_step(self, data: dict) -> list[MultiTaskDataSample]:
        """Predictions of a batch from ``pseudo_collate``."""
        return self(data["inputs"], data["data_samples"])

    val_step = test_step


def crops_for_exported(loader: Mapping, key: str) -> dict:
    """Change a loader's config to crop without resizing, which exported files do themselves.

    Args:
        loader: config of an evaluation data loader.
        key: its name in the config, for messages.

    Raises:
        ConfigError: a pipeline without exactly one ``CropResize``.
    """
    loader = copy.deepcopy(dict(loader))
    datasets = list(plain_datasets_in(loader.get("dataset"))) or [{}]
    for dataset in datasets:
        pipeline = dataset.get("pipeline") or ()
        steps = [str(step.get("type")).removeprefix("trn_plugin.") for step in pipeline]
        if steps.count("CropResize") != 1:
            raise ConfigError(
                f"{key}.dataset.pipeline: expected one CropResize, which the exported file "
                f"replaces, found {', '.join(steps) or 'no pipeline'}"
            )
        dataset["pipeline"] = [
            dict(type="trn_plugin.Crop") if name == "CropResize" else step
            for name, step in zip(steps, pipeline, strict=True)
        ]
    loader["collate_fn"] = dict(type="pseudo_collate")  # crops differ in size
    return loader


def evaluators_for(
    evaluators: Mapping | Sequence[Mapping], predictor: TaskPredictor
) -> tuple[list[dict], list[str]]:
    """Configs of the metrics that fit a file's outputs, and reasons for those left out."""
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else list(evaluators)
    kept, left_out = [], []
    for metric in map(dict, evaluators):
        name = str(metric.get("type")).removeprefix("trn_plugin.")
        if name == "TaskSimilarity":
            metric, missing = _similarity_for(metric, predictor)
            left_out += missing
        else:
            tasks = getattr(METRICS.build(metric), "predicted_tasks", ())
            missing = [task for task in tasks if task not in predictor.tasks]
            if missing:
                left_out.append(f"{name}: the file has no output {', '.join(missing)}")
                metric = None
        if metric is not None:
            kept.append(metric)
    return kept, left_out


def _similarity_for(metric: dict, predictor: TaskPredictor) -> tuple[dict | None, list[str]]:
    """Similarities of the labels, and of features if the file has them."""
    left_out, built, tasks = [], METRICS.build(metric), predictor.tasks
    every = [((a,), (b,)) for a, b in combinations(sorted(tasks), 2)]
    wanted = list(built.relations.values()) or every
    relations = [pair for pair in wanted if {t for side in pair for t in side} <= tasks.keys()]
    if len(relations) < len(wanted):
        left_out.append("TaskSimilarity: relations with tasks that the file lacks")
    missing = [level for level in built.levels if level not in predictor.features]
    if missing:
        keys = ", ".join(f"tau_{level}" for level in missing)
        left_out.append(f"TaskSimilarity: {keys}; the file gives no features (export --features)")
    if not relations:
        return None, left_out
    levels = tuple(level for level in built.levels if level not in missing)
    return {**metric, "relations": relations, "levels": levels}, left_out


def use_exported(config: Config, path: str, provider: str | None = None) -> list[str]:
    """Change ``config`` to test the exported file at ``path`` instead of its model.

    The file gets the uint8 crops of the test pipeline before resizing, as from ``predict``.
    Metrics that do not fit the file's outputs are dropped.

    Args:
        config: from ``cli.load_config``; changed in place.
        path: a file written by ``export_onnx``.
        provider: 'cpu' or 'cuda'; default CUDA if present, then the CPU.

    Returns:
        list[str]: metrics that are left out, with reasons.

    Raises:
        ConfigError: an unusable test pipeline, or no metric fits the file.
        CheckpointError: the file cannot be run.
    """
    providers = providers_of(provider)
    predictor = TaskPredictor(path, providers)
    if not config.get("test_dataloader") or not config.get("test_evaluator"):
        raise ConfigError("config: has no test_dataloader or no test_evaluator")
    config.test_dataloader = crops_for_exported(config.test_dataloader, "test_dataloader")
    metrics, left_out = evaluators_for(config.test_evaluator, predictor)
    if not metrics:
        raise ConfigError(f"test_evaluator: found no metric of {', '.join(predictor.tasks)}")
    config.test_evaluator = metrics
    config.model = dict(type="trn_plugin.ExportedModel", path=path, providers=providers)
    config.load_from = None
    for name in ("compile", "input_size"):  # they need a backbone
        config.pop(name, None)
    return left_out


def crop_loader(config: Config, split: str) -> DataLoader:
    """The loader of 'val' or 'test' with uint8 crops that are not resized.

    Raises:
        ConfigError, DataError: the config has no such data, or they cannot be read.
    """
    key = f"{split}_dataloader"
    if not config.get(key):
        raise ConfigError(f"config: has no {key}")
    changed = Config({**config.to_dict(), key: crops_for_exported(config[key].to_dict(), key)})
    return build_loader(changed, split)


def some_crops(loader: DataLoader, count: int) -> list[np.ndarray]:
    """Up to ``count`` crops (h, w, 3) uint8 RGB, evenly spread over the data."""
    total = len(loader.dataset)
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    return [
        loader.dataset[int(index)]["inputs"].permute(1, 2, 0).contiguous().numpy()
        for index in (chosen if count else ())
    ]


@torch.no_grad()
def measure(
    config: Config, split: str, loader: DataLoader, deployed: DeployModel, paths: Sequence[str]
) -> tuple[list[dict[str, float]], Counter]:
    """Metrics, without task similarity, of a PyTorch model and its exported files on the same data.

    Args:
        config: config with the evaluator of ``split``.
        split: 'val' or 'test'.
        loader: from :func:`crop_loader`.
        deployed: the model in eval mode; resizes pictures one by one, as ``CropResize``.
        paths: exported files.

    Returns:
        Metrics of ``deployed`` and of each file; number of pictures by kind of box.

    Raises:
        ConfigError: the split has no evaluator, or no metric fits the files.
    """
    evaluators = config.get(f"{split}_evaluator")
    if not evaluators:
        raise ConfigError(f"config: has no {split}_evaluator")
    predictors = [ExportedModel(path, providers_of("cpu")) for path in paths]
    kept, _ = evaluators_for(evaluators, predictors[0].predictor)
    kept = [metric for metric in kept if "TaskSimilarity" not in str(metric.get("type"))]
    if not kept:
        raise ConfigError(f"{split}_evaluator: found no metric of {', '.join(deployed.tasks)}")
    models = [lambda batch: _predicted(deployed, batch)]
    models += [predictor.test_step for predictor in predictors]
    with config_errors(f"{split}_evaluator"):
        scores = [Evaluator(copy.deepcopy(kept)) for _ in models]
    boxes: Counter = Counter()
    for score in scores:
        score.dataset_meta = getattr(loader.dataset, "metainfo", None)
    for batch in loader:
        boxes.update(sample.get("box_source", "unnamed") for sample in batch["data_samples"])
        for model, score in zip(models, scores, strict=True):
            score.process(data_samples=model(batch), data_batch=batch)
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # the metrics' log lines would repeat for each model
    try:
        return [score.evaluate(len(loader.dataset)) for score in scores], boxes
    finally:
        logger.setLevel(level)


def _predicted(deployed: DeployModel, batch: dict) -> list[MultiTaskDataSample]:
    inputs = [deployed.inputs(image.permute(1, 2, 0)[None]) for image in batch["inputs"]]
    return deployed.model.predict(torch.cat(inputs), batch["data_samples"])
