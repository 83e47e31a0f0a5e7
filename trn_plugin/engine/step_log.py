"""The log of training steps, on a GPU read without waiting for each step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook

__all__ = ["StepLog", "StepLogHook", "finite_only"]

MOST_PENDING = 100
"""Steps read at once, at the latest."""


def finite_only(entries: dict, skipped: int) -> dict:
    """Log entries without those that are not finite, and whether the step was skipped."""
    finite = {
        name: value
        for name, value in entries.items()
        if not isinstance(value, (float, torch.Tensor))
        or (math.isfinite(value) if isinstance(value, float) else bool(value.isfinite().all()))
    }
    return {**finite, "skipped_steps": skipped}


class StepLog:
    """Entries of steps whose values are on their way to the host.

    The entries of a step become one tensor, copied without waiting.

    Args:
        runner (SafeRunner): whose message hub gets the entries.
        tell (Callable): given the iteration, the entries and the norms of the gradients of a step
            that was not finite, returns what to log, or ends the run.
    """

    def __init__(self, runner, tell: Callable[[int, dict, list], dict]) -> None:
        self.runner, self.tell = runner, tell
        self.pending: list[tuple] = []

    def __len__(self) -> int:
        return len(self.pending)

    def add(self, iteration: int, entries: dict, good: torch.Tensor | None, norms: list) -> None:
        """Begin to copy the entries of a step.

        Args:
            iteration: counted from 1.
            entries: numbers, and tensors of one number.
            good: flag on the device; None if the step is known to be told already.
            norms: of the gradients, as ``tell`` takes them.
        """
        tensors = {k: v.detach().reshape(1) for k, v in entries.items() if torch.is_tensor(v)}
        parts = [*tensors.values(), *([] if good is None else [good.reshape(1)])]
        host = event = None
        if parts:
            device = parts[-1].device
            values = torch.cat([part.to(device, non_blocking=True) for part in parts])
            on_gpu = device.type == "cuda"
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=on_gpu)
            host.copy_(values, non_blocking=True)
            if on_gpu:
                event = torch.cuda.Event()
                event.record()
        names = list(tensors)
        self.pending.append((iteration, entries, names, host, event, good is not None, norms))

    def flush(self) -> None:
        """Wait for the steps begun so far, and log them.

        Raises:
            TrainingError: one of them was not finite.
        """
        pending, self.pending = self.pending, []
        for iteration, entries, names, host, event, flagged, norms in pending:
            if event is not None:
                event.synchronize()
            values = [] if host is None else host.tolist()
            entries = {**entries, **dict(zip(names, values, strict=False))}
            if flagged and not values[-1]:
                entries = self.tell(iteration, entries, norms)
            for name, value in entries.items():
                self.runner.message_hub.update_scalar(f"train/{name}", value)


class StepLogHook(RuntimeInfoHook):
    """MMEngine's ``RuntimeInfoHook``, which waits for every log entry of every step.

    On a GPU they are read where the logger writes them, at the end of an epoch, and before a
    validation or a checkpoint. ``SafeRunner`` uses it where a config says ``RuntimeInfoHook``.
    """

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """As MMEngine's, or read what is due."""
        steps = runner.finite_steps
        if not steps.late:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
            return
        due = len(steps.log) >= MOST_PENDING or any(
            isinstance(hook, LoggerHook) and hook.every_n_inner_iters(batch_idx, hook.interval)
            for hook in runner.hooks
        )
        if due or self.end_of_epoch(runner.train_dataloader, batch_idx):
            steps.log.flush()

    def before_val(self, runner) -> None:
        """As MMEngine's."""
        if runner.finite_steps is not None:
            runner.finite_steps.log.flush()
        super().before_val(runner)

    def after_train(self, runner) -> None:
        """As MMEngine's."""
        runner.finite_steps.log.flush()
        super().after_train(runner)
