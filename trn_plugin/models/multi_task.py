"""The multi-task model: trunk, heads, and a neck that measures how the tasks relate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from trn_plugin.config_checks import config_errors
from trn_plugin.errors import ConfigError, DataError
from trn_plugin.models._checks import (
    check_loss_weight,
    check_relations,
    check_task_names,
    head_input,
)
from trn_plugin.models.neck import Measurements
from trn_plugin.models.trunk import Features
from trn_plugin.models.weighting.base import RuleWeighting
from trn_plugin.models.whole_trunk import build_trunk
from trn_plugin.registry import MODELS
from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample

__all__ = ["MultiTaskModel"]


@MODELS.register_module()
class MultiTaskModel(BaseModel):
    """A shared trunk, a tail and a head for each task, and optionally a task relation neck.

    Args:
        backbone (dict): config of ``TimmTrunk``, or of any other registered backbone, which is
            shared whole, see ``WholeTrunk``.
        heads (dict[str, dict]): config of each task's head, by task name.
        neck (dict, optional): config of ``TaskRelationNeck``.
        data_preprocessor (dict, optional): default ``MultiTaskDataPreprocessor`` with the mean
            and std of the backbone.
        task_weighting (dict, optional): config of ``UncertaintyWeighting``, ``GradNorm`` or
            ``DynamicWeightAverage``; by default the loss is the sum of the heads' losses.
        init_cfg (None): refused; MMEngine would load weights without this package's safeguards.

    Raises:
        ConfigError: no heads, an invalid task name, or an error in a part's config.
    """

    def __init__(
        self,
        backbone: dict,
        heads: dict[str, dict],
        neck: dict | None = None,
        data_preprocessor: dict | None = None,
        task_weighting: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        check_task_names(heads)
        if init_cfg is not None:
            raise ConfigError(
                "model.init_cfg: not used; for weights set model.backbone.pretrained, "
                "model.backbone.checkpoint_path or load_from"
            )
        relation_neck = None if neck is None else _build("neck", neck)
        taps = () if relation_neck is None else relation_neck.taps
        maps = tuple(task for task, head in heads.items() if head_input(task, head) == "map")
        trunk = build_trunk(backbone, tuple(heads), taps, maps)
        preprocessor = _with_backbone_normalisation(data_preprocessor, trunk)
        super().__init__(data_preprocessor=_build("data_preprocessor", preprocessor))
        _check_channels(trunk, self.data_preprocessor)
        self.backbone = trunk
        self.heads = nn.ModuleDict()
        for task, head in heads.items():
            width = trunk.map_features if task in maps else trunk.num_features
            own = {key: value for key, value in head.items() if key != "input"}
            self.heads[task] = _build(f"heads.{task}", own, in_features=width)
            self.heads[task].input = "map" if task in maps else "vector"
        for task, head in self.heads.items():
            head.task.name = task
            check_loss_weight(task, getattr(head, "loss_weight", 1.0))
        self.task_weighting = None
        if task_weighting is not None:
            shares = {task: head.uncertainty_share for task, head in self.heads.items()}
            self.task_weighting = _build("task_weighting", task_weighting, shares=shares)
            if hasattr(self.task_weighting, "connect"):
                self.task_weighting.connect(trunk.trunk)
        self.neck = relation_neck
        if relation_neck is not None:
            outputs = {task: head.out_features for task, head in self.heads.items()}
            widths = {"hidden": trunk.num_features, **trunk.tap_features}
            dims = {level: dict.fromkeys(self.tasks, width) for level, width in widths.items()}
            relation_neck.connect(
                {**dims, "output": outputs, "logits": outputs, "label": outputs},
                identical=trunk.fully_shared,
            )
        self.relation_losses: list[Callable[[dict[str, Measurements]], dict]] = []

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.heads)

    def is_optional_state(self, key: str) -> bool:
        """Whether a key of a state dict may be missing in the model or in a checkpoint.

        This holds for the normalisation, which the config has; for a neck's states saved by an
        earlier version; and, if the model has no neck, for all states of a neck.
        """
        old = self.is_run_state(key) and (".groups." in key or ".warm." in key)
        if key.startswith("data_preprocessor.") or old:
            return True
        return self.neck is None and key.startswith("neck.")

    def is_run_state(self, key: str) -> bool:
        """Whether a key of the state dict belongs to one run and its data.

        These are the running covariances, and task weights set by a rule.
        """
        ruled = isinstance(self.task_weighting, RuleWeighting)
        return key.startswith("neck.") or (ruled and key.startswith("task_weighting."))

    def check_dataset(self, metainfo: dict) -> None:
        """Check the labels of a training data set against heads and relations.

        Its ``metainfo`` describes the labels under 'tasks'. For a mixture of data sets,
        'tasks_together' lists the tasks of each.
        """
        tasks = metainfo.get("tasks")
        for name, head in self.heads.items() if tasks is not None else ():
            if name not in tasks:
                raise ConfigError(
                    f"model.heads.{name}: the training data set has no labels of this task, "
                    f"only of {', '.join(tasks)}"
                )
            head.check_labels(name, tasks[name])
        if self.neck is not None and "tasks_together" in metainfo:
            check_relations(self.neck, metainfo["tasks_together"])

    def fit_to_labels(self, dataset) -> None:
        """Set the heads' arguments that depend on the training labels.

        If there are such arguments, ``dataset`` needs a method ``labels_of(task)``.
        """
        for task, head in self.heads.items():
            head.fit_to_labels(task, dataset)

    def forward(
        self,
        inputs: Tensor,
        data_samples: MultiTaskBatch | list[MultiTaskDataSample] | None = None,
        mode: str = "tensor",
    ):
        """See MMEngine's ``BaseModel``.

        For normalised pictures (N, 3, H, W), mode 'tensor' gives raw outputs (N, d) by task,
        'loss' a dict of losses and measurements, 'predict' the data samples with predictions.
        """
        if mode == "loss":
            return self.loss(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        if mode == "tensor":
            return self.raw_outputs(self.backbone.features(inputs))
        raise ConfigError(f"mode: expected 'tensor', 'loss' or 'predict', found {mode!r}")

    def loss(
        self, inputs: Tensor, data_samples: MultiTaskBatch | list[MultiTaskDataSample]
    ) -> dict[str, Tensor]:
        """Task losses (Eq. 13 without its last sum), task similarities, and relation losses.

        Task losses are ``loss_<task>``. Similarities, ``relation/<level>/<a>-<b>`` and
        ``relation/label/<a>-<b>``, are only logged. Hooks add functions to ``relation_losses``,
        which compute relation losses from the measurements.
        """
        features = self.backbone.features(inputs)
        logits = self.raw_outputs(features)
        batch = self._batch(data_samples).to(inputs.device)
        target, mask = self._encode(batch)
        of_tasks = {
            task: head.loss(logits[task], target[task], mask[task], batch.parts.get(task))
            for task, head in self.heads.items()
        }
        weights = {}
        if self.task_weighting is not None:
            of_tasks, weights = self.task_weighting(of_tasks), self.task_weighting.logged()
        losses = {f"loss_{task}": loss for task, loss in of_tasks.items()} | weights
        if self.neck is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.relation_losses)):
                levels = {"hidden": features.hidden, "logits": logits, "label": target}
                levels |= features.taps
                if "output" in self.neck.levels:
                    levels["output"] = self._activated(logits)
                whole = {task: batch.whole(task) for task in batch.parts.keys() & mask.keys()}
                measured = self.neck(levels, {**mask, **whole, **dict.fromkeys(batch.complete)})
            losses.update(self.neck.logged(measured))
            for relation_loss in self.relation_losses:
                losses.update(relation_loss(measured))
        return losses

    def predict(
        self,
        inputs: Tensor,
        data_samples: MultiTaskBatch | list[MultiTaskDataSample] | None = None,
    ) -> MultiTaskBatch | list[MultiTaskDataSample]:
        """Add predictions, and features for measuring task similarity, to the data samples.

        If ``data_samples`` is None, new ones are made.
        """
        features = self.backbone.features(inputs)
        logits = self.raw_outputs(features)
        if data_samples is None:
            data_samples = [MultiTaskDataSample(gt={}) for _ in range(len(inputs))]
        batch = self._batch(data_samples)
        targets, _ = self._encode(batch)
        batch = batch.with_fields(
            pred={task: head.predict(logits[task]) for task, head in self.heads.items()},
            hidden=features.hidden,
            output=self._activated(logits),
            logits=logits,
            target={task: targets[task] for task in self.tasks if task in batch.tasks},
        )
        return batch if isinstance(data_samples, MultiTaskBatch) else batch.give_to(data_samples)

    def raw_outputs(self, features: Features) -> dict[str, Tensor]:
        """Outputs of the heads for the trunk's features, (N, d) by task."""
        inputs = {**features.hidden, **features.maps}
        return {task: head(inputs[task]) for task, head in self.heads.items()}

    def _activated(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        return {task: head.activate(logits[task]) for task, head in self.heads.items()}

    def _batch(self, samples: MultiTaskBatch | list[MultiTaskDataSample]) -> MultiTaskBatch:
        if isinstance(samples, MultiTaskBatch):
            return samples
        return MultiTaskBatch.of(samples, {task: head.task for task, head in self.heads.items()})

    def _encode(self, batch: MultiTaskBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Targets (N, d) and masks (N,) by task; a mask is False where the label is missing."""
        given, masks = dict(batch.targets), dict(batch.masks)
        targets = {}
        for task, head in self.heads.items():
            if task not in given:
                given[task] = batch.matrix.new_zeros(len(batch), head.out_features).float()
                masks[task] = batch.mask.new_zeros(len(batch))
            described = batch.tasks.get(task, head.task)
            if given[task].shape[1] != head.out_features or described.kind != head.task.kind:
                raise DataError(
                    f"{task}: expected labels of kind {head.task.kind!r} with "
                    f"{head.out_features} numbers, as {type(head).__name__} predicts, found "
                    f"{described.kind!r} with {given[task].shape[1]}"
                )
            # contiguous: the kernel for strided tensors rounds differently
            targets[task] = head.prepare(given[task].contiguous(), masks[task])
        return targets, masks


def _build(key: str, config: dict, **kwargs):
    """Build a part; types are looked up in this package's scope, whatever the default scope."""
    with config_errors(f"model.{key}"):
        return MODELS.build({"_scope_": MODELS.scope, **config, **kwargs})


def _check_channels(trunk, preprocessor) -> None:
    taken, mean = trunk.in_chans, getattr(preprocessor, "mean", None)
    if taken != 3:
        raise ConfigError(
            f"model.backbone.in_chans: expected 3 (RGB), found {taken}; grey pictures are read as "
            "RGB"
        )
    if mean is not None and mean.numel() != 3:
        raise ConfigError(
            f"model.data_preprocessor: expected mean and std of 3 channels, found {mean.numel()}"
        )


def _with_backbone_normalisation(config: dict | None, trunk) -> dict:
    config = {"type": "MultiTaskDataPreprocessor", **(config or {})}
    for name in ("mean", "std"):
        if config.get(name) is None:
            config[name] = [255 * value for value in getattr(trunk, name)]
    return config
