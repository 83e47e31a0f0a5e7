"""Validate the config of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from trn_plugin.errors import ConfigError, printable
from trn_plugin.models.heads import HeatmapLandmarkHead, TaskHead
from trn_plugin.models.neck import TaskRelationNeck
from trn_plugin.models.weighting.base import is_number
from trn_plugin.registry import MODELS

__all__ = ["check_loss_weight", "check_relations", "check_task_names", "head_input"]

EXPORTED_INPUT = "images"


def check_relations(neck: TaskRelationNeck, together: Sequence[Collection[str]]) -> None:
    """Refuse a relation of tasks that have no labelled samples in common.

    ``together`` holds the tasks of each training data set.
    """
    every = {task for pair in neck.relations for side in pair for task in side}
    for name, pair in zip(neck.names, neck.relations, strict=True):
        wanted = every if neck.deletion == "listwise" else {*pair[0], *pair[1]}
        if not any(wanted <= set(tasks) for tasks in together):
            raise ConfigError(
                f"model.neck.relations: {name} cannot be measured, as no training data set has "
                f"labels of {' and '.join(sorted(wanted))}; list only relations within a data set"
            )


def check_loss_weight(task: str, weight) -> None:
    """Refuse a ``loss_weight`` that is neither a number nor a tensor that a head made of one."""
    if not (torch.is_tensor(weight) or is_number(weight)):
        raise ConfigError(
            f"model.heads.{task}.loss_weight: expected a number, found {printable(repr(weight))}"
        )


def check_task_names(heads: dict[str, dict]) -> None:
    """Refuse invalid task names."""
    if not heads:
        raise ConfigError("model.heads: expected at least one task")
    methods = dir(nn.ModuleDict())
    for name, head in heads.items():
        if not isinstance(head, dict):
            raise ConfigError(f"model.heads.{name}: expected a dict with 'type', found {head!r}")
        for is_wrong, reason in (
            (not name.isidentifier(), "expected letters, digits and '_'"),
            (name in methods, "it names a method of torch.nn.ModuleDict"),
            (name == EXPORTED_INPUT, "exported models have an input of that name"),
            (name.startswith("relation_"), "names of relation losses begin with 'relation_'"),
            ("loss" in name, "MMEngine adds up every log entry whose name contains 'loss'"),
        ):
            if is_wrong:
                raise ConfigError(f"model.heads: {name!r} cannot be a task name: {reason}")


def head_input(task: str, head: Mapping) -> str:
    """The ``input`` of a head, 'vector' or 'map': from its config, else from its class."""
    kind = head.get("type")
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    usual = getattr(kind, "input", "vector")
    found = head.get("input", usual)
    if found not in ("vector", "map"):
        raise ConfigError(
            f"model.heads.{task}.input: expected 'vector' or 'map', found {printable(repr(found))}"
        )
    if found != usual and getattr(kind, "forward", None) in (
        TaskHead.forward,
        HeatmapLandmarkHead.forward,
    ):
        raise ConfigError(
            f"model.heads.{task}.input: {kind.__name__} takes the {usual}, found {found!r}"
        )
    return found
