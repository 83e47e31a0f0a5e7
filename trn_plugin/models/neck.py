"""Measures the similarity of tasks during training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError, TrainingError
from trn_plugin.registry import MODELS
from trn_plugin.relation import TaskRelationLayer, measure_together
from trn_plugin.structures import relation_name, relation_sides

__all__ = ["Measurements", "TaskRelationNeck"]

LEVELS = ("hidden", "output", "logits")
MAX_LOGGED_RELATIONS = 10


class Measurements(NamedTuple):
    """All relations at one level, after a training step.

    Attributes:
        tau (Tensor): (P,) task similarities of the features, with their gradient.
        label (Tensor): (P,) task similarities of the labels, without gradient.
        effective_sample_size (Tensor): (P,) of the running covariances.
        arrived (Tensor): (P,) bool, whether it is large enough for a gradient.
    """

    tau: Tensor
    label: Tensor
    effective_sample_size: Tensor
    arrived: Tensor


@MODELS.register_module()
class TaskRelationNeck(nn.Module):
    """Task relation layers between the tasks' features, and between their labels (Fig. 1).

    It only measures: without a hook that uses the measurements, losses and gradients are unchanged,
    so that single-task and multi-task baselines can report tau too.

    Args:
        relations (Sequence[tuple] or str): pairs of tasks, ``('landmarks', 'pose')``, or of groups
            of tasks, ``(('a', 'b'), ('c',))``, whose features are concatenated; 'all' for every
            pair of tasks.
        levels (Sequence[str]): 'hidden' (pooled input of a task's last layer), 'output' (the
            head's coordinates, probabilities or values), 'logits' (its raw output), or the dotted
            name of a timm module inside the tails ('layer4.0'), averaged over positions.
        momentum (float): m of Algorithm 1.
        **options: shrinkage, deletion, correct_chance, statistic, start and min_samples_per_dim of
            ``TaskRelationLayer``; a ``TaskRelationLossHook`` sets its own min_samples_per_dim.

    Raises:
        ConfigError: no level or relation, or a relation that is not a pair of different tasks.
    """

    def __init__(
        self,
        relations: Sequence[tuple] | str,
        levels: Sequence[str] = ("hidden", "output"),
        momentum: float = 0.99,
        **options,
    ) -> None:
        super().__init__()
        if isinstance(levels, str) or not levels or "label" in levels:
            raise ConfigError(
                "model.neck.levels: expected a list of 'hidden', 'output', 'logits' and "
                f"modules of the backbone, found {levels!r}"
            )
        if not relations:
            raise ConfigError("model.neck.relations: expected at least one pair of tasks")
        self.levels = tuple(levels)
        self.relations: tuple = ()
        self._all_pairs = relations == "all"
        if not self._all_pairs:
            self.relations = tuple(
                relation_sides(relation, "model.neck.relations") for relation in relations
            )
        if len({frozenset(pair) for pair in self.relations}) < len(self.relations):
            raise ConfigError(
                f"model.neck.relations: expected each pair once, found {', '.join(self.names)}"
            )
        self.momentum, self._options = momentum, options
        try:
            self.deletion = TaskRelationLayer(momentum, **options).deletion
        except ValueError as error:
            raise ConfigError(f"model.neck.{error}") from None
        self.layers = nn.ModuleDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the relations in the log."""
        return tuple(relation_name(sides) for sides in self.relations)

    @property
    def taps(self) -> tuple[str, ...]:
        """The levels that are modules of the backbone."""
        return tuple(level for level in self.levels if level not in LEVELS)

    def connect(
        self,
        dims: Mapping[str, Mapping[str, int]],
        identical: Collection[str] = frozenset(),
    ) -> None:
        """Build the layers; ``MultiTaskModel`` calls it.

        ``dims`` holds the width of each task's features by level, and of its targets as level
        'label'. The tasks ``identical`` have the same hidden features, as they share everything.
        """
        tasks = tuple(dims["label"])
        if self._all_pairs:
            if len(tasks) < 2:
                raise ConfigError("model.neck.relations: 'all' needs two tasks or more")
            # sorted, as MMEngine sorts the keys of a config that it dumps
            self.relations = tuple(((a,), (b,)) for a, b in combinations(sorted(tasks), 2))
        for name, pair in zip(self.names, self.relations, strict=True):
            for task in (*pair[0], *pair[1]):
                if task not in tasks:
                    raise ConfigError(
                        f"model.neck.relations: {task!r} is not a task; the tasks of model.heads "
                        f"are {', '.join(tasks)}"
                    )
            if "hidden" in self.levels and all(set(side) & set(identical) for side in pair):
                raise ConfigError(
                    f"model.neck.levels: 'hidden' relates a feature to itself in {name}, since "
                    "model.backbone.shared_stages shares everything; leave 'hidden' out or share "
                    "less"
                )
        self._sides = tuple(dict.fromkeys(side for pair in self.relations for side in pair))
        pairs = [tuple(map(self._sides.index, pair)) for pair in self.relations]
        self.layers = nn.ModuleDict()
        for level in (*self.levels, "label"):
            self.layers[_key(level)] = TaskRelationLayer(
                self.momentum,
                dims=[sum(dims[level][task] for task in side) for side in self._sides],
                names=[f"{'+'.join(side)} ({level})" for side in self._sides],
                pairs=pairs,
                **self._options,
            )

    def forward(
        self,
        features: Mapping[str, Mapping[str, Tensor]],
        mask: Mapping[str, Tensor | None],
    ) -> dict[str, Measurements]:
        """Update all layers with a batch (in training mode) and measure, by level.

        Args:
            features (Mapping[str, Mapping[str, Tensor]]): (N, d) by level and task, with the
                targets as level 'label'.
            mask (Mapping[str, Tensor | None]): (N,) bool by task, False where the label is missing;
                None if all are present, which is faster. A relation uses the samples that have all
                labels of both sides.

        Raises:
            TrainingError: non-finite features; names the tasks and the level.
        """
        masks = [_all_of([mask[task] for task in side]) for side in self._sides]
        levels = (*self.levels, "label")
        sides = [
            [_side_by_side([features[level][task] for task in side]) for side in self._sides]
            for level in levels
        ]
        try:
            found = measure_together(
                [self.layers_of(level) for level in levels], sides, [masks] * len(levels)
            )
        except ValueError as error:
            raise TrainingError(f"TaskRelationNeck: {error}") from error
        taus = {level: tau.view(-1) for level, tau in zip(levels, found, strict=True)}
        label = taus.pop("label").detach()
        samples = self.layers_of("label").effective_sample_size.view(-1)
        return {
            level: Measurements(
                tau, label.to(tau.dtype), samples, self.layers_of(level).arrived.view(-1)
            )
            for level, tau in taus.items()
        }

    def logged(self, measured: Mapping[str, Measurements]) -> dict[str, Tensor]:
        """Log entries: tau by level (also 'label') and relation, or its mean over many relations.

        Level 'samples' is the effective sample size; if it is small, tau is largely chance.
        """
        taus = {level: m.tau.detach() for level, m in measured.items()}
        first = next(iter(measured.values()))
        taus |= {"label": first.label, "samples": first.effective_sample_size}
        names = self.names
        if len(names) > MAX_LOGGED_RELATIONS:
            entries = {f"relation/{level}/mean": tau.mean() for level, tau in taus.items()}
        else:
            entries = {
                f"relation/{level}/{name}": value
                for level, tau in taus.items()
                for name, value in zip(names, tau.unbind(), strict=True)
            }
        rates = [rate for layer in self.layers.values() if (rate := layer.exact_rate) is not None]
        if rates:
            entries["relation/exact_rate"] = torch.tensor(max(rates))
        return entries

    def accumulate(self, micro_batches: int) -> None:
        """Let each of k micro-batches update the running covariances with momentum m^(1/k)."""
        for layer in self.layers.values():
            layer.momentum = self.momentum ** (1 / micro_batches)

    def widths(self) -> dict[str, dict[str, tuple[int, int, float]]]:
        """d1, d2 and the effective sample size needed for a gradient, by level and relation."""
        widths = {}
        for level in (*self.levels, "label") if self.layers else ():
            layer = self.layers_of(level)
            dims, needed = layer.pair_dims.tolist(), layer.needed_samples.tolist()
            of_pairs = [(d1, d2, n) for (d1, d2), n in zip(dims, needed, strict=True)]
            widths[level] = dict(zip(self.names, of_pairs, strict=True))
        return widths

    def require_samples(self, per_dim: float) -> None:
        """Set the effective samples per feature dimension from which tau has a gradient."""
        for layer in self.layers.values():
            layer.min_samples_per_dim = per_dim

    def layers_of(self, level: str) -> TaskRelationLayer:
        """The task relation layer of a level, for all relations."""
        return self.layers[_key(level)]


def _side_by_side(features: Sequence[Tensor]) -> Tensor:
    return features[0] if len(features) == 1 else torch.cat(features, 1)


def _all_of(masks: Sequence[Tensor | None]) -> Tensor | None:
    given = [mask for mask in masks if mask is not None]
    return torch.stack(given).all(0) if len(given) > 1 else next(iter(given), None)


def _key(level: str) -> str:
    return level.replace(".", "_")
