"""The two short trainings of ``trn-plugin advise``, and their gradient cosines and tau."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import nn

from trn_plugin.cli.config import build_runner
from trn_plugin.engine.inference import build_loader
from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.features import LABELS, collect_features
from trn_plugin.evaluation.pairwise import PairSimilarity, pair_similarities
from trn_plugin.experiments.gradients import (
    NO_WEIGHTS,
    Interval,
    StageCosineHook,
    stages_of_parameters,
)
from trn_plugin.registry import MODELS

__all__ = ["Findings", "measure", "short_config", "stage_features"]


@dataclass(frozen=True)
class Findings:
    """Measurements of the two short trainings.

    Attributes:
        stages (tuple[str, ...]): names of the stages, in order.
        similarities (dict[str, list[PairSimilarity]]): tau of each pair of tasks, by level: 'gt',
            'output' (all shared), 'output alone' and each stage (nothing shared).
        cosines (dict[tuple[str, str], list[Interval]]): by pair of tasks, the cosine of their
            gradients at each stage.
    """

    stages: tuple[str, ...]
    similarities: dict[str, list[PairSimilarity]]
    cosines: dict[tuple[str, str], list[Interval]]


def measure(
    config: Config, folder: Path, epochs: int | None = None, steps: int | None = None
) -> Findings:
    """Train the config's model with all stages shared and with none, and measure both.

    Gradients are measured during the first training. tau is measured on the validation set, or on
    the training set if there is no validation set.

    Args:
        config: a config of ``load_config``.
        folder: work directory of the trainings.
        epochs: length of each training.
        steps: length of each training in steps, instead of epochs.

    Raises:
        ConfigError: fewer than two tasks, a backbone other than ``TimmTrunk``, or a model that
            cannot be trained or cut.
    """
    tasks = tuple(config.model.get("heads") or ())
    backbone = config.model.get("backbone") or {}
    if len(tasks) < 2:
        raise ConfigError(f"model.heads: expected at least two tasks, found {len(tasks)}")
    if str(backbone.get("type")).rpartition(".")[2] != "TimmTrunk":
        raise ConfigError(f"model.backbone.type: expected TimmTrunk, found {backbone.get('type')}")
    stages, places = stages_of_parameters(backbone.to_dict())
    hook = StageCosineHook(places)
    shared = _train(short_config(config, "all", folder / "shared", epochs, steps), hook)
    loader = build_loader(config, "val" if config.get("val_dataloader") else "train")
    together = collect_features(shared.eval(), loader, (LABELS, "output"))
    alone = _train(short_config(config, 0, folder / "alone", epochs, steps)).eval()
    features = {
        **together,
        "output alone": collect_features(alone, loader, ("output",))["output"],
        **stage_features(alone, backbone.to_dict(), stages, loader),
    }
    pairs = list(combinations(tasks, 2))
    found = {level: pair_similarities(by_task, pairs) for level, by_task in features.items()}
    return Findings(stages, found, hook.by_stage())


def short_config(
    config: Config,
    shared_stages: int | str,
    folder: Path,
    epochs: int | None = None,
    steps: int | None = None,
) -> Config:
    """The config of a short training, without relation losses, validation and checkpoints."""
    short = copy.deepcopy(config)
    short.work_dir = str(folder)
    short.model.backbone.update(shared_stages=shared_stages, grad_checkpointing=False)
    short.model.neck = None
    short.custom_hooks = [
        hook
        for hook in config.get("custom_hooks") or ()
        if not str(hook.get("type")).endswith("TaskRelationLossHook")
    ]
    for part in ("val", "test"):
        for name in ("dataloader", "cfg", "evaluator"):
            short[f"{part}_{name}"] = None
    hooks = short.get("default_hooks") or {}
    short.default_hooks = {**hooks, "checkpoint": None, "similarity_plot": None}
    if shared_stages == 0:  # loss balancing needs shared parameters
        short.model.task_weighting = None
        if str(short.optim_wrapper.get("type")).endswith("JacobianOptimWrapper"):
            for name in ("aggregator", "relation_losses", "shared"):
                short.optim_wrapper.pop(name, None)
            short.optim_wrapper.type = "OptimWrapper"
    if steps is not None:
        short.train_cfg = dict(type="IterBasedTrainLoop", max_iters=steps)
    elif "max_epochs" not in short.train_cfg:
        raise ConfigError("--epochs: expected a config with train_cfg.max_epochs; give --steps")
    else:
        short.train_cfg.max_epochs = epochs or max(1, short.train_cfg.max_epochs // 10)
    return short


def stage_features(
    model: nn.Module, backbone: Mapping, stages: Sequence[str], loader
) -> dict[str, dict[str, np.ndarray]]:
    """Spatially pooled features of each task at each stage of a model that shares nothing.

    Returns:
        Arrays (N, d) by stage and task.
    """
    settings = {"_scope_": "trn_plugin", **backbone, **NO_WEIGHTS}
    settings |= dict(shared_stages=0, tasks=model.tasks, taps=tuple(stages))
    tapped = MODELS.build(settings)
    tapped.load_state_dict(model.backbone.state_dict())
    tapped.to(next(model.parameters()).device).eval()
    with torch.inference_mode():
        batches = (model.data_preprocessor(data, False)["inputs"] for data in loader)
        parts = [tapped.features(inputs)[1] for inputs in batches]
    return {
        stage: {
            task: torch.cat([part[stage][task] for part in parts]).float().cpu().numpy()
            for task in model.tasks
        }
        for stage in stages
    }


def _train(config: Config, *hooks: Hook) -> nn.Module:
    runner = build_runner(config)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner.bare_model
