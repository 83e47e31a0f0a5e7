"""The log of training steps, on a GPU read without waiting for each step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook

__all__ = ["StepLog", "StepLogHook"]

MOST_PENDING = 100
"""Steps read at once, at the latest."""


class StepLog:
    """Entries of steps whose values are on their way to the host, those of a step in one tensor.

    Args:
        runner (SafeRunner): whose message hub gets the entries.
        tell (Callable): given the iteration, the entries and the norms of the gradients of a step
            that was not finite, returns what to log, or ends the run.
    """

    def __init__(self, runner, tell: Callable[[int, dict, list], dict]) -> None:
        self.runner, self.tell = runner, tell
        self.pending: list[tuple] = []

    def add(self, iteration: int, entries: dict, good: torch.Tensor | None, norms: list) -> None:
        """Begin to copy the entries of a step, numbers and tensors of one number.

        Args:
            iteration: counted from 1.
            entries: by name.
            good: flag on the device; None if what was not finite is told already.
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
        self.pending.append((iteration, entries, list(tensors), host, event, good, norms))

    def flush(self) -> None:
        """Wait for the steps begun so far, and log them; TrainingError if one was not finite."""
        pending, self.pending = self.pending, []
        for iteration, entries, names, host, event, good, norms in pending:
            if event is not None:
                event.synchronize()
            values = [] if host is None else host.tolist()
            entries = {**entries, **dict(zip(names, values, strict=False))}
            if good is not None and not values[-1]:
                entries = self.tell(iteration, entries, norms)
            for name, value in entries.items():
                self.runner.message_hub.update_scalar(f"train/{name}", value)


class StepLogHook(RuntimeInfoHook):
    """MMEngine's ``RuntimeInfoHook``, which waits for every log entry of every step.

    On a GPU they are read where the logger writes them, at the end of an epoch, and before a
    validation or a checkpoint. ``SafeRunner`` uses it where a config says ``RuntimeInfoHook``.
    """

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        steps = runner.finite_steps
        if not steps.late:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
        elif (
            len(steps.log.pending) >= MOST_PENDING
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
            or any(
                isinstance(hook, LoggerHook) and hook.every_n_inner_iters(batch_idx, hook.interval)
                for hook in runner.hooks
            )
        ):
            steps.log.flush()

    def before_val(self, runner) -> None:
        if runner.finite_steps is not None:
            runner.finite_steps.log.flush()
        super().before_val(runner)

    def after_train(self, runner) -> None:
        runner.finite_steps.log.flush()
        super().after_train(runner)
