"""Turns what the neck measures into a loss: multi-task learning becomes a TRN."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor

from trn_plugin.errors import ConfigError
from trn_plugin.models.neck import Measurements
from trn_plugin.registry import HOOKS

__all__ = ["TaskRelationLossHook"]


@HOOKS.register_module()
class TaskRelationLossHook(Hook):
    r"""Adds the task similarity losses to the model's (Eq. 13, Eq. 14).

    .. math:: \mathcal{L} = \sum_t \mathcal{L}_t + \sum_l \lambda_l \mathcal{L}_{ts}^{(l)}, \quad
              \mathcal{L}_{ts}^{(l)} = |\tau(F_1^{(l)}, F_2^{(l)}) - \tau(Y_1, Y_2)|

    with the mean over relations where there are several. The model logs
    ``loss_relation_<level>`` and ``relation/weight_<level>``. A relation counts from when the
    effective sample size of its running moments is ``min_samples_per_dim`` times d1 + d2: with
    fewer samples even independent features have a tau near 1.

    Priority: NORMAL; it acts before and after the whole training only.

    Args:
        weights (Mapping[str, float]): lambda by level, e.g. ``dict(output=0.01, hidden=0.001)``.
        min_samples_per_dim (float): see above; 0 switches the warm-up off.
        allow_undersampled (bool): train even if the effective sample size can never be reached
            (then the loss of that level stays 0) instead of refusing to start.

    Raises:
        ConfigError: weights that are no non-negative numbers; when training starts, a model
            without neck, a level that the neck does not measure, or a batch size and momentum
            that can never give enough samples.
    """

    priority = "NORMAL"

    def __init__(
        self,
        weights: Mapping[str, float],
        min_samples_per_dim: float = 5.0,
        allow_undersampled: bool = False,
    ) -> None:
        for level, weight in weights.items():
            if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
                raise ConfigError(
                    f"TaskRelationLossHook.weights: expected a number >= 0 for {level!r}, "
                    f"got {weight!r}"
                )
        if not weights:
            raise ConfigError("TaskRelationLossHook.weights: expected at least one level")
        if min_samples_per_dim < 0:
            raise ConfigError(
                f"TaskRelationLossHook.min_samples_per_dim: expected a number >= 0, "
                f"got {min_samples_per_dim}"
            )
        self.weights = dict(weights)
        self.min_samples_per_dim = min_samples_per_dim
        self.allow_undersampled = allow_undersampled

    def before_train(self, runner) -> None:
        model = _unwrapped(runner.model)
        neck = getattr(model, "neck", None)
        if neck is None:
            raise ConfigError("TaskRelationLossHook needs a model with model.neck")
        for level in self.weights:
            if level not in neck.levels:
                raise ConfigError(
                    f"TaskRelationLossHook.weights: level {level!r} is not measured; "
                    f"model.neck.levels are {neck.levels}"
                )
        batch = runner.train_dataloader.batch_sampler.batch_size * runner.world_size
        self._check_reachable(neck, batch)
        model.relation_losses.append(self.losses)

    def after_train(self, runner) -> None:
        _unwrapped(runner.model).relation_losses.remove(self.losses)

    def losses(self, measured: Mapping[str, Measurements]) -> dict[str, Tensor]:
        """Eq. 14 by level, times lambda; and the share of lambda that is switched on."""
        losses = {}
        for level, weight in self.weights.items():
            m = measured[level]
            on = m.effective_sample_size >= self._needed(m.dims.sum(1))
            differences = (m.tau - m.label).abs()
            losses[f"loss_relation_{level}"] = weight * torch.where(on, differences, 0.0).mean()
            losses[f"relation/weight_{level}"] = weight * on.to(differences.dtype).mean()
        return losses

    def _needed(self, dims: Tensor | int) -> Tensor | float:
        return self.min_samples_per_dim * dims

    def _check_reachable(self, neck, batch: int) -> None:
        for level in self.weights:
            layer = neck.layers_of(level)
            limit = batch * (1 + layer.momentum) / (1 - layer.momentum)
            for name, (d1, d2) in zip(neck.names, layer.pair_dims.tolist(), strict=True):
                needed = self._needed(d1 + d2)
                if limit < needed and not self.allow_undersampled:
                    raise ConfigError(
                        f"TaskRelationLossHook: {name} at level {level!r} needs "
                        f"{self.min_samples_per_dim:g} x ({d1} + {d2}) = {needed:.0f} effective "
                        f"samples, but batch {batch} with momentum {layer.momentum:g} tends to "
                        f"{limit:.0f}: raise either, or set allow_undersampled=True"
                    )


def _unwrapped(model):
    return model.module if is_model_wrapper(model) else model
