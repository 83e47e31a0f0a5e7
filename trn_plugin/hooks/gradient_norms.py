"""Log the gradient norm of each loss."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from trn_plugin.errors import ConfigError
from trn_plugin.registry import HOOKS

__all__ = ["GradientNormHook"]


@HOOKS.register_module()
class GradientNormHook(Hook):
    """Logs the gradient norm of each loss: ``gradient/<task>``, ``gradient/relation_<level>``.

    It is the Euclidean norm over the trained parameters, or those below ``shared``, before clipping
    and without weight decay. Each measurement costs a backward pass for each loss; it does not
    change the training. With several processes, only the first one's part of the batch is measured.

    Args:
        interval (int): iterations from one measurement to the next.
        shared (str, optional): dotted prefix of parameter names, such as 'backbone.trunk'.

    Raises:
        ConfigError: an interval below 1; when training starts, no parameter with the prefix.
    """

    def __init__(self, interval: int = 20, shared: str | None = None) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ConfigError(
                f"GradientNormHook.interval: expected an integer of at least 1, found {interval!r}"
            )
        self.interval, self.shared = interval, shared

    def before_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        prefix = "" if self.shared is None else f"{self.shared}."
        self._parameters = [
            p for name, p in model.named_parameters() if p.requires_grad and name.startswith(prefix)
        ]
        if not self._parameters:
            raise ConfigError(f"GradientNormHook.shared: no parameter below {self.shared!r}")
        self._runner = runner
        self._handle = model.register_forward_hook(self._measure)

    def after_train(self, runner) -> None:
        self._handle.remove()

    def _measure(self, model: nn.Module, args: tuple, output):
        trains = model.training and torch.is_grad_enabled() and isinstance(output, dict)
        if not trains or self._runner.iter % self.interval:
            return None
        losses = {
            key.removeprefix("loss_"): value
            for key, value in output.items()
            if key.startswith("loss_") and torch.is_tensor(value) and value.requires_grad
        }
        norms = {f"gradient/{name}": self._norm(value) for name, value in losses.items()}
        return {**output, **norms}

    def _norm(self, loss: Tensor) -> Tensor:
        grads = torch.autograd.grad(
            loss.mean(), self._parameters, retain_graph=True, allow_unused=True
        )
        found = [g for g in grads if g is not None]
        return torch.nn.utils.get_total_norm(found) if found else loss.new_zeros(())
