"""Log training steps without host synchronisation, and describe non-finite ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from trn_plugin.device_flags import HostCopy

__all__ = ["StepLog", "StepLogHook"]

MOST_PENDING = 100  # steps in the queue before it is flushed


class StepLog:
    """Queue of log entries that are copied to the host asynchronously, one tensor per step.

    ``on_nonfinite`` takes the iteration, entries and norms of a non-finite step, and may raise
    TrainingError. If there is an entry 'skipped_steps', non-finite entries are not logged.
    """

    def __init__(self, runner, on_nonfinite: Callable[[int, dict, list], None]) -> None:
        self.runner, self.on_nonfinite = runner, on_nonfinite
        self.pending: list[tuple] = []

    def add(self, iteration: int, entries: dict, good: torch.Tensor | None, norms: list) -> None:
        """Start copying the entries of a step (numbers and one-element tensors) to the host.

        ``good`` is the device's flag of a finite step; None if the host has checked the step.
        """
        tensors = {k: v.detach().reshape(1) for k, v in entries.items() if torch.is_tensor(v)}
        parts = [*tensors.values(), *([] if good is None else [good.reshape(1)])]
        copied = None
        if parts:
            device = parts[-1].device
            copied = HostCopy(torch.cat([part.to(device, non_blocking=True) for part in parts]))
        self.pending.append((iteration, entries, list(tensors), copied, good, norms))

    def flush(self) -> None:
        """Wait for all queued steps and log them; TrainingError if one is non-finite."""
        pending, self.pending = self.pending, []
        for iteration, entries, names, copied, good, norms in pending:
            values = [] if copied is None else copied.read().tolist()
            entries = {**entries, **dict(zip(names, values, strict=False))}
            if good is not None and not values[-1]:
                self.on_nonfinite(iteration, entries, norms)
            for name, value in entries.items():
                if "skipped_steps" not in entries or math.isfinite(value):
                    self.runner.message_hub.update_scalar(f"train/{name}", value)


class StepLogHook(RuntimeInfoHook):
    """MMEngine's ``RuntimeInfoHook`` without a host synchronisation at each step.

    On a GPU, values are read when the log is written, and before a validation or checkpoint.
    """

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        log = runner.finite_steps.log
        if (
            len(log.pending) >= MOST_PENDING
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
            or any(
                isinstance(hook, LoggerHook) and hook.every_n_inner_iters(batch_idx, hook.interval)
                for hook in runner.hooks
            )
        ):
            log.flush()

    def before_val(self, runner) -> None:
        if runner.finite_steps is not None:
            runner.finite_steps.log.flush()
        super().before_val(runner)

    def after_train(self, runner) -> None:
        runner.finite_steps.log.flush()
        super().after_train(runner)


class Losses(dict):
    """Forward hook that collects a model's losses since the last optimizer step, by name."""

    def __call__(self, module, inputs, output) -> None:
        if module.training and isinstance(output, dict):
            for name, value in output.items():
                values = value if isinstance(value, (list, tuple)) else [value]
                if "loss" in name and all(torch.is_tensor(v) for v in values):
                    self.setdefault(name, []).extend(v.detach().reshape(-1) for v in values)

    def __deepcopy__(self, memo):
        return Losses()  # a copied model starts empty

    def bad_text(self) -> str | None:
        """Non-finite losses and their values as text; None if there are none."""
        flat = {name: torch.cat(values) for name, values in self.items()}
        bad = {name: values[~values.isfinite()] for name, values in flat.items()}
        return losses_text({name: float(found[0]) for name, found in bad.items() if found.numel()})


class Norms(NamedTuple):
    """Gradient norms of an optimizer's parameters: total, and of each one."""

    total: Tensor
    each: Tensor
    parameters: list

    def bad_text(self, names: dict[int, str]) -> str:
        """Non-finite gradients as text; ``names`` are the parameters' names by ``id``."""
        pairs = zip(self.parameters, self.each.tolist(), strict=True)
        bad = [names.get(id(p), "a parameter") for p, norm in pairs if not math.isfinite(norm)]
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            return f"the gradient of {bad[0]}{more} is not finite"
        if math.isfinite(float(self.total)):
            return "a loss of another process is not finite"
        return "the norm of the gradients is not finite"


def norms_of(parameters: list[Tensor], order: float = 2.0) -> Norms:
    """Gradient norms as in ``torch.nn.utils.get_total_norm``."""
    gradients = [parameter.grad for parameter in parameters]
    if not gradients:
        return Norms(torch.zeros(()), torch.zeros(0), parameters)
    if len({(gradient.dtype, gradient.device) for gradient in gradients}) == 1:
        each = torch.stack(torch._foreach_norm(gradients, order))
    else:
        norms = [torch.linalg.vector_norm(gradient, order) for gradient in gradients]
        each = torch.stack([norm.to(gradients[0].device, torch.float32) for norm in norms])
    return Norms(torch.linalg.vector_norm(each, order), each, parameters)


def losses_text(bad: dict[str, float]) -> str | None:
    """Non-finite losses and their values as text; None if there are none."""
    named = {key: value for key, value in bad.items() if key != "loss"} or bad
    return " and ".join(f"{key} is {value}" for key, value in named.items()) or None


def statistics_of(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Pairs of buffer and copy for the running statistics of normalisation layers."""
    return [
        (buffer, buffer.clone())
        for module in model.modules()
        if isinstance(module, _NormBase)
        for buffer in module.buffers(recurse=False)
    ]
