"""Cosines between the tasks' gradients, for each shared stage of the backbone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from trn_plugin.registry import MODELS

__all__ = ["NO_WEIGHTS", "Interval", "StageCosineHook", "mean_interval", "stages_of_parameters"]


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
    from scipy.stats import t

    mean = statistics.fmean(known)
    half = float(t.ppf(0.975, len(known) - 1)) * statistics.stdev(known) / math.sqrt(len(known))
    return Interval(mean, mean - half, mean + half, len(known))


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
    """Records the cosine between the tasks' gradients, batch by batch and for each shared stage.

    Each measurement costs one backward pass per task. It does not change the training.

    Args:
        places (Mapping[str, int]): the stage of each parameter of the trunk, by name.
        measurements (int): approximate number of measurements, spread over the training.
    """

    def __init__(self, places: Mapping[str, int], measurements: int = 100) -> None:
        self.places, self.measurements = places, measurements
        self.cosines: dict[tuple[str, str], list[list[float]]] = {}
        self._handle = None

    def before_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._runner, self._interval = runner, max(1, runner.max_iters // self.measurements)
        stages = max(self.places.values()) + 1
        self._shared: list[list[Tensor]] = [[] for _ in range(stages)]
        for name, parameter in model.backbone.trunk.named_parameters():
            if parameter.requires_grad:
                self._shared[self.places[name]].append(parameter)
        self._handle = model.register_forward_hook(self._measure)

    def after_train(self, runner) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def by_stage(self) -> dict[tuple[str, str], list[Interval]]:
        """The mean cosine and its interval for each pair of tasks and each stage."""
        return {
            pair: [mean_interval(values) for values in zip(*batches, strict=True)]
            for pair, batches in self.cosines.items()
        }

    def _measure(self, model: nn.Module, args: tuple, output) -> None:
        due = self._runner.iter % self._interval == 0 and torch.is_grad_enabled()
        if not (isinstance(output, dict) and due and model.training):
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
