"""The task similarity loss, which turns multi-task learning into a Task Relation Network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor

from trn_plugin.errors import ConfigError
from trn_plugin.hooks._attach import AttachedRelations
from trn_plugin.models.neck import Measurements, TaskRelationNeck
from trn_plugin.registry import HOOKS
from trn_plugin.relation import task_similarity_loss

__all__ = ["TaskRelationLossHook"]


@HOOKS.register_module()
class TaskRelationLossHook(Hook):
    r"""Adds the task similarity losses to the model's (Eq. 13, Eq. 14).

    .. math:: \mathcal{L} = \sum_t \mathcal{L}_t + \sum_l \lambda_l \mathcal{L}_{ts}^{(l)}, \quad
              \mathcal{L}_{ts}^{(l)} = |\tau(F_1^{(l)}, F_2^{(l)}) - \tau(Y_1, Y_2)|

    The loss is averaged over the relations. The model logs ``loss_relation_<level>`` and
    ``relation/weight_<level>``. A relation counts once the effective sample size of its running
    covariances reaches ``min_samples_per_dim`` times d1 + d2: with fewer samples even independent
    features have a tau near 1.

    The model has a ``TaskRelationNeck``. With ``features``, ``labels`` and ``relations`` it may be
    any model whose ``forward`` returns a dict of losses in mode 'loss'. It is not modified: forward
    hooks read its modules during training. The running covariances are saved in checkpoints as
    'relation_state' and restored by a resumed run. Samples may lack labels, but each task needs a
    label in the first step of a run.

    Args:
        weights (Mapping[str, float]): lambda by level, e.g. ``dict(output=0.01, hidden=0.001)``.
        min_samples_per_dim (float): see above; 0 switches the warm-up off.
        allow_undersampled (bool): train even if the effective sample size can never be reached
            (the loss of that level stays 0) instead of refusing to start.
        features (Mapping[str, Mapping], optional): by level (any name) and task the dotted name of
            a module, whose output is averaged over positions to (N, d); or
            ``dict(path=..., dim=...)``, where ``dim`` is the feature dimension (default: 1 for maps
            (N, d, H, W), the last for (N, d) and (N, L, d)).
        labels (Mapping, optional): by task the path of the label in a data sample: attributes, dict
            keys and positions joined by dots; or ``dict(path=..., num_classes=...)`` for a class
            index, which becomes one-hot, with the optional ``ignore_index`` of missing labels.
            Other labels are flattened to (d,). None and NaN are missing labels too.
        relations (Sequence[tuple] | str, optional): see ``TaskRelationNeck``.
        data_samples (str): the argument of the model's ``forward`` that holds a list of data
            samples, or a dict of batches.
        **options: momentum, shrinkage, deletion, correct_chance, statistic and start of the
            ``TaskRelationNeck`` that measures ``relations``.

    Raises:
        ConfigError: weights that are not numbers >= 0, or inconsistent names; when training starts,
            a model without neck, a level that is not measured, a path that names no module, or a
            batch size and momentum that never give enough samples; in a training step, features
            or labels other than described above.
        TrainingError: non-finite features; names the tasks and the level.
        CheckpointError: running covariances of other relations, levels or widths.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        min_samples_per_dim: float = 5.0,
        allow_undersampled: bool = False,
        features: Mapping[str, Mapping] | None = None,
        labels: Mapping | None = None,
        relations: Sequence[tuple] | str | None = None,
        data_samples: str = "data_samples",
        **options,
    ) -> None:
        if not isinstance(weights, Mapping) or not weights:
            raise ConfigError(
                f"TaskRelationLossHook.weights: expected numbers by level, at least one "
                f"level, found {weights!r}"
            )
        for level, weight in weights.items():
            if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
                raise ConfigError(
                    f"TaskRelationLossHook.weights: expected a number >= 0 for {level!r}, "
                    f"found {weight!r}"
                )
        if min_samples_per_dim < 0:
            raise ConfigError(
                f"TaskRelationLossHook.min_samples_per_dim: expected a number >= 0, "
                f"found {min_samples_per_dim}"
            )
        self.weights = dict(weights)
        self.min_samples_per_dim = min_samples_per_dim
        self.allow_undersampled = allow_undersampled
        self._saved: Mapping | None = None
        self._told = False
        for name in options.keys() - inspect.signature(TaskRelationNeck).parameters.keys():
            raise ConfigError(f"TaskRelationLossHook: no option is named {name!r}")
        self.attached: AttachedRelations | None = None
        read = dict(features=features, labels=labels, relations=relations)
        missing = [name for name, value in read.items() if value is None]
        given = [*(name for name in read if name not in missing), *options]
        if missing and given:
            raise ConfigError(
                f"TaskRelationLossHook.{given[0]}: also needs {' and '.join(missing)}; a model "
                "with model.neck needs none of them"
            )
        if not missing:
            options["min_samples_per_dim"] = min_samples_per_dim
            self.attached = AttachedRelations(**read, data_samples=data_samples, **options)
            self._check_levels(self.attached.levels, "TaskRelationLossHook.features")

    def before_train(self, runner) -> None:
        model = _unwrapped(runner.model)
        neck = getattr(model, "neck", None)
        if self.attached is not None:
            self._attach(runner, model, neck)
            return
        if not isinstance(neck, TaskRelationNeck):
            raise ConfigError(
                "TaskRelationLossHook needs a model with model.neck of type TaskRelationNeck, or "
                "its own features, labels and relations"
            )
        self._check_levels(neck.levels, "model.neck.levels")
        batch = runner.train_dataloader.batch_sampler.batch_size * runner.world_size
        neck.accumulate(_accumulated(runner))
        self._set_warm_up(neck, batch)
        model.relation_losses.append(self.losses)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.attached is not None:
            self.attached.check_called()

    def after_train_epoch(self, runner) -> None:
        neck = self.attached.neck if self.attached is not None else _unwrapped(runner.model).neck
        batches = neck.layers_of("label").batches.reshape(-1).tolist()
        never = [name for name, count in zip(neck.names, batches, strict=True) if not count]
        if never and not self._told:
            self._told = True
            runner.logger.warning(
                f"TaskRelationLossHook: no step had two samples with both labels of "
                f"{', '.join(never[:5])}: not measured, and no loss"
            )

    def after_train(self, runner) -> None:
        if self.attached is not None:
            self.attached.detach()
        else:
            _unwrapped(runner.model).relation_losses.remove(self.losses)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self.attached is not None:
            checkpoint["relation_state"] = self.attached.state()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self._saved = checkpoint.get("relation_state")

    def losses(self, measured: Mapping[str, Measurements]) -> dict[str, Tensor]:
        """By level, Eq. 14 times lambda, and lambda times the share of relations that count."""
        losses = {}
        for level, weight in self.weights.items():
            m = measured[level]
            differences = torch.where(m.arrived, task_similarity_loss(m.tau, m.label), 0.0)
            losses[f"loss_relation_{level}"] = weight * differences.mean()
            losses[f"relation/weight_{level}"] = weight * m.arrived.to(differences.dtype).mean()
        return losses

    def _attach(self, runner, model, neck) -> None:
        if isinstance(neck, TaskRelationNeck):
            raise ConfigError(
                "TaskRelationLossHook.features: not used with model.neck, which measures already; "
                "remove one of them"
            )
        others = [h for h in runner.hooks if isinstance(h, TaskRelationLossHook) and h is not self]
        if any(hook.attached is not None for hook in others):
            raise ConfigError(
                "custom_hooks: expected one TaskRelationLossHook with features, for all levels; "
                "found several"
            )
        if runner.iter == 0:  # not resumed; at most initial weights were loaded
            self.attached.load(None)
        elif self._saved is not None:
            self.attached.load(self._saved)
        elif self.attached.dims is None:
            runner.logger.warning(
                "TaskRelationLossHook: the checkpoint has no relation_state; running covariances "
                "start anew"
            )
        self._saved = None
        self.attached.attach(model, self.losses, self._set_warm_up, _accumulated(runner))

    def _check_levels(self, levels: Sequence[str], where: str) -> None:
        for level in self.weights:
            if level not in levels:
                raise ConfigError(
                    f"TaskRelationLossHook.weights: level {level!r} is not measured; "
                    f"{where} are {tuple(levels)}"
                )

    def _set_warm_up(self, neck: TaskRelationNeck, batch: int) -> None:
        """Set the effective sample size that a gradient needs; refuse one that is never reached."""
        neck.require_samples(self.min_samples_per_dim)
        for level in self.weights:
            layer = neck.layers_of(level)
            limit = batch * (1 + layer.momentum) / (1 - layer.momentum)
            for name, (d1, d2) in zip(neck.names, layer.pair_dims.tolist(), strict=True):
                needed = self.min_samples_per_dim * (d1 + d2)
                if limit < needed and not self.allow_undersampled:
                    raise ConfigError(
                        f"TaskRelationLossHook: {name} at level {level!r} needs "
                        f"{self.min_samples_per_dim:g} x ({d1} + {d2}) = {needed:.0f} effective "
                        f"samples, but batch {batch} with momentum {layer.momentum:g} tends to "
                        f"{limit:.0f}: raise either, or set allow_undersampled=True"
                    )


def _accumulated(runner) -> int:
    """Number of steps over which the runner accumulates gradients."""
    wrapper = runner.optim_wrapper
    wrappers = getattr(wrapper, "optim_wrappers", {None: wrapper}).values()
    return max(getattr(each, "_accumulative_counts", 1) for each in wrappers)


def _unwrapped(model):
    return model.module if is_model_wrapper(model) else model
