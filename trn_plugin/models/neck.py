"""Where tasks are related: measures, changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError, TrainingError
from trn_plugin.registry import MODELS
from trn_plugin.relation import TaskRelationLayer
from trn_plugin.structures import relation_name, relation_sides

__all__ = ["Measurement", "TaskRelationNeck"]

LEVELS = ("hidden", "output")


@dataclass
class Measurement:
    """One relation at one level, after a training step.

    Attributes:
        tau (Tensor): 0-d task similarity of the features, with its gradient.
        label (Tensor): 0-d task similarity of the labels, without gradient.
        effective_sample_size (Tensor): 0-d, samples behind both.
        dims (tuple[int, int]): widths of the two sides' features.
    """

    tau: Tensor
    label: Tensor
    effective_sample_size: Tensor
    dims: tuple[int, int]


@MODELS.register_module()
class TaskRelationNeck(nn.Module):
    """Task relation layers between the tasks' features, and between their labels (Fig. 1).

    It only measures: with no hook that uses the measurements no loss and no gradient changes, so
    that single-task and multi-task baselines report tau too.

    Args:
        relations (Sequence[tuple]): pairs of tasks, ``('landmarks', 'pose')``, or of groups of
            tasks, ``(('a', 'b'), ('c',))``, whose features are put side by side.
        levels (Sequence[str]): 'hidden' (what enters a task's last layer), 'output' (the head's
            raw output), or the dotted name of a timm module inside the tails ('layer4.0'), whose
            output is averaged over positions.
        momentum (float): m of Algorithm 1.
        shrinkage (float): relative shrinkage, see ``TaskRelationLayer``.

    Raises:
        ConfigError: no level, a relation that is no pair, that relates a task to itself or names
            no task of the model.
    """

    def __init__(
        self,
        relations: Sequence[tuple],
        levels: Sequence[str] = LEVELS,
        momentum: float = 0.99,
        shrinkage: float = 1e-5,
    ) -> None:
        super().__init__()
        if isinstance(levels, str) or not levels or "label" in levels:
            raise ConfigError(
                "model.neck.levels: expected a list of 'hidden', 'output' and modules of the "
                f"backbone, got {levels!r}"
            )
        if not relations:
            raise ConfigError("model.neck.relations: expected at least one pair of tasks")
        self.levels = tuple(levels)
        self.relations = tuple(
            relation_sides(relation, "model.neck.relations") for relation in relations
        )
        self.names = tuple(relation_name(sides) for sides in self.relations)
        self.momentum = momentum
        self.shrinkage = shrinkage
        self.layers = nn.ModuleDict()

    @property
    def taps(self) -> tuple[str, ...]:
        """The levels that are modules of the backbone."""
        return tuple(level for level in self.levels if level not in LEVELS)

    def connect(
        self,
        hidden_dims: Mapping[str, int],
        output_dims: Mapping[str, int],
        tap_dims: Mapping[str, int],
        identical: bool,
    ) -> None:
        """Make the layers for tasks of these widths; ``MultiTaskModel`` calls it when built.

        Args:
            hidden_dims (Mapping[str, int]): width of each task's hidden features.
            output_dims (Mapping[str, int]): width of each task's raw outputs and loss targets.
            tap_dims (Mapping[str, int]): width of each level of :attr:`taps`.
            identical (bool): whether all tasks have the same hidden features.

        Raises:
            ConfigError: a relation that names no task, or a hidden relation of identical features.
        """
        for pair in self.relations:
            for task in (*pair[0], *pair[1]):
                if task not in output_dims:
                    raise ConfigError(
                        f"model.neck.relations: {task!r} names no task; the tasks of model.heads "
                        f"are {', '.join(output_dims)}"
                    )
        if "hidden" in self.levels and identical:
            raise ConfigError(
                "model.neck.levels: 'hidden' relates a feature to itself, since "
                "model.backbone.shared_stages shares everything; leave 'hidden' out or share less"
            )
        dims = {"hidden": hidden_dims, "output": output_dims, "label": output_dims}
        for tap in self.taps:
            dims[tap] = dict.fromkeys(output_dims, tap_dims[tap])
        for level in (*self.levels, "label"):
            self.layers[_key(level)] = nn.ModuleList(
                TaskRelationLayer(
                    self.momentum,
                    self.shrinkage,
                    dims=tuple(sum(dims[level][task] for task in group) for group in pair),
                    names=tuple(f"{'+'.join(group)} ({level})" for group in pair),
                )
                for pair in self.relations
            )

    def forward(
        self,
        hidden: Mapping[str, Tensor],
        output: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        mask: Mapping[str, Tensor],
        tapped: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> dict[str, list[Measurement]]:
        """Update all layers with a batch (in training mode) and measure.

        Args:
            hidden (Mapping[str, Tensor]): (N, d) by task.
            output (Mapping[str, Tensor]): (N, d) by task.
            target (Mapping[str, Tensor]): (N, d) loss targets by task.
            mask (Mapping[str, Tensor]): (N,) bool by task, which samples have a label; a relation
                uses the samples that have all labels of both sides.
            tapped (Mapping, optional): (N, d) by level of :attr:`taps` and task.

        Returns:
            dict[str, list[Measurement]]: by level, one for each relation.

        Raises:
            TrainingError: features that are not finite; names the tasks and the level.
        """
        features = {"hidden": hidden, "output": output, "label": target, **(tapped or {})}
        taus: dict[str, list[Tensor]] = {level: [] for level in (*self.levels, "label")}
        for index, pair in enumerate(self.relations):
            labelled = torch.stack([mask[task] for group in pair for task in group]).all(0)
            for level, values in taus.items():
                sides = [torch.cat([features[level][t] for t in group], 1) for group in pair]
                try:
                    values.append(self.layers[_key(level)][index](*sides, labelled))
                except ValueError as error:
                    raise TrainingError(f"TaskRelationNeck: {error}") from error
        return {
            level: [
                Measurement(tau, label.detach(), layer.effective_sample_size, layer.dims)
                for tau, label, layer in zip(
                    taus[level], taus["label"], self.layers[_key(level)], strict=True
                )
            ]
            for level in self.levels
        }

    def accumulate(self, micro_batches: int) -> None:
        """Keep the memory of the running moments when gradients are accumulated.

        Args:
            micro_batches (int): k; each of them updates with momentum m^(1/k).
        """
        for layers in self.layers.values():
            for layer in layers:
                layer.momentum = self.momentum ** (1 / micro_batches)

    def layers_of(self, level: str) -> nn.ModuleList:
        """The task relation layers of a level, one for each relation."""
        return self.layers[_key(level)]


def _key(level: str) -> str:
    return level.replace(".", "_")
