"""Cosines between the tasks' gradients, for each shared stage of the backbone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from trn_plugin.registry import MODELS

__all__ = ["NO_WEIGHTS", "Interval", "StageCosineHook", "mean_interval", "stages_of_parameters"]

MEASUREMENTS = 100
NO_WEIGHTS = dict(pretrained=False, checkpoint_path=None, grad_checkpointing=False)


class Interval(NamedTuple):
    """A mean and its 95 % interval (Student's t); NaN with too few values.

    Attributes:
        mean: mean of the values.
        low: lower end of the interval.
        high: upper end of the interval.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and interval of the values that are not NaN."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return Interval(known[0] if known else math.nan, math.nan, math.nan, len(known))
    from scipy.stats import ttest_1samp

    low, high = ttest_1samp(known, 0).confidence_interval(0.95)
    return Interval(statistics.fmean(known), float(low), float(high), len(known))


def stages_of_parameters(backbone: Mapping) -> tuple[tuple[str, ...], dict[str, int]]:
    """The stages of a trunk, and the stage of each of its parameters.

    The model is cut after each stage. A parameter belongs to the first stage after which the tail
    no longer contains it.

    Args:
        backbone: config of ``TimmTrunk``.

    Returns:
        The stages' names, and the index of the stage (from 0) by parameter name.

    Raises:
        ConfigError: the model cannot be built, or cannot be cut after a stage.
    """
    settings = {"_scope_": "trn_plugin", **backbone, **NO_WEIGHTS}
    whole = MODELS.build({**settings, "shared_stages": "all", "tasks": ("whole",)})
    places = {name: 0 for name, _ in whole.trunk.named_parameters()}
    cuts = range(1, len(whole.stages))
    if cuts:
        counts = {f"cut{k}": k for k in cuts} | {"last": cuts[-1]}
        parts = MODELS.build({**settings, "shared_stages": counts, "tasks": tuple(counts)})
        for k in cuts:
            places.update({name: k for name, _ in parts.tails[f"cut{k}"].named_parameters()})
    return whole.stages or ("whole",), places


class StageCosineHook(Hook):
    """Records the cosine between the tasks' gradients for each shared stage, at about 100 steps.

    Each measurement costs one backward pass per task and does not change the training.

    Args:
        places (Mapping[str, int]): the stage of each parameter of the trunk, by name.
    """

    def __init__(self, places: Mapping[str, int]) -> None:
        self.places = places
        self.cosines: dict[tuple[str, str], list[list[float]]] = {}

    def before_train(self, runner) -> None:
        self._runner, self._interval = runner, max(1, runner.max_iters // MEASUREMENTS)
        stages = max(self.places.values()) + 1
        self._shared: list[list[Tensor]] = [[] for _ in range(stages)]
        for name, parameter in runner.model.backbone.trunk.named_parameters():
            if parameter.requires_grad:
                self._shared[self.places[name]].append(parameter)
        runner.model.register_forward_hook(self._measure)

    def by_stage(self) -> dict[tuple[str, str], list[Interval]]:
        """The mean cosine and its interval for each pair of tasks and each stage."""
        return {
            pair: [mean_interval(values) for values in zip(*batches, strict=True)]
            for pair, batches in self.cosines.items()
        }

    def _measure(self, model: nn.Module, args: tuple, output) -> None:
        if not model.training or self._runner.iter % self._interval:
            return
        gradients = {task: self._gradients(output[f"loss_{task}"]) for task in model.tasks}
        for a, b in combinations(model.tasks, 2):
            found = [_cosine(*both) for both in zip(gradients[a], gradients[b], strict=True)]
            self.cosines.setdefault((a, b), []).append(found)

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient of each stage as one vector; length 0 if the stage is frozen."""
        flat = [parameter for stage in self._shared for parameter in stage]
        found = iter(torch.autograd.grad(loss, flat, retain_graph=True, materialize_grads=True))
        return [
            torch.cat([next(found).flatten() for _ in stage]) if stage else loss.new_zeros(0)
            for stage in self._shared
        ]


def _cosine(one: Tensor, other: Tensor) -> float:
    """Cosine of two gradients; NaN if one of them is zero."""
    lengths = float(one.norm()) * float(other.norm())
    return float(one @ other) / lengths if lengths > 0 else math.nan
