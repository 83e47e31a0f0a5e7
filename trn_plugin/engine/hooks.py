"""Small hooks that every run of ``SafeRunner`` has."""

from __future__ import annotations

import signal
import threading

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import EarlyStoppingHook, Hook

from trn_plugin.engine.distributed import average_statistics
from trn_plugin.engine.finite import FiniteSteps
from trn_plugin.errors import ConfigError, shown
from trn_plugin.stopping import Terminated

__all__ = ["NamesHook", "run_hooks"]

FIRST, LAST = 1, 99


def run_hooks(cfg) -> list[Hook]:
    """The hooks of a run with this config."""
    hooks = [FiniteStepsHook(), ValidationHook(), NamesHook()]
    return [*hooks, SaveOnTerminateHook()] if cfg.get("save_on_sigterm") else hooks


class FiniteStepsHook(Hook):
    """Makes ``runner.finite_steps``, which run the training steps."""

    priority = FIRST

    def before_train(self, runner) -> None:
        runner.finite_steps = FiniteSteps(runner, runner.cfg.get("non_finite", "stop"))


class ValidationHook(Hook):
    """Averages statistics before a validation, notes what it measured, and refuses monitors of
    ``EarlyStoppingHook`` that it does not measure.
    """

    priority = FIRST

    def before_val(self, runner) -> None:
        average_statistics(runner.bare_model)

    def after_val_epoch(self, runner, metrics=None) -> None:
        runner.validated = runner.iter, metrics or {}
        # the log's own count is of epochs, a checkpoint's of iterations
        runner.message_hub.update_scalar("val/at_iter", runner.iter)
        for hook in runner.hooks if metrics else ():
            if isinstance(hook, EarlyStoppingHook) and hook.monitor not in metrics:
                raise ConfigError(
                    f"EarlyStoppingHook.monitor: expected one of {', '.join(metrics)}, "
                    f"got {hook.monitor!r}"
                )


class NamesHook(Hook):
    """Says so when classes, points or attributes have other names than the model's."""

    priority = FIRST

    def before_test(self, runner) -> None:
        trained_on = runner.trained_on or getattr(runner.bare_model, "dataset_meta", None)
        model, data = map(_tasks, (trained_on, runner.test_dataloader.dataset.metainfo))
        for task in model.keys() & data.keys():
            for key in ("classes", "names"):
                theirs, ours = (kind.get(key) for kind in (model[task], data[task]))
                listed = all(isinstance(names, (list, tuple)) for names in (theirs, ours))
                if listed and [*theirs] != [*ours]:
                    runner.logger.warning(
                        f"{task}: the model was trained with {key} {shown(list(theirs))}, the "
                        f"test data has {shown(list(ours))}: what it measures may be wrong"
                    )


def _tasks(metainfo) -> dict[str, dict]:
    tasks = metainfo.get("tasks") if isinstance(metainfo, dict) else None
    kinds = tasks.items() if isinstance(tasks, dict) else ()
    return {task: kind for task, kind in kinds if isinstance(kind, dict)}


class SaveOnTerminateHook(Hook):
    """Writes a checkpoint when the process is asked to end by SIGTERM, then ends the run."""

    priority = LAST
    before, asked = None, False

    def before_train(self, runner) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._note)

    def after_train(self, runner) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._save_if_asked(runner, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._save_if_asked(runner, runner.iter)

    def _note(self, signum, frame) -> None:
        self.asked = True

    def _save_if_asked(self, runner, iteration: int) -> None:
        asked = self.asked
        if get_world_size() > 1:  # one that was asked ends all
            flag = torch.tensor(int(asked), device=next(runner.model.parameters()).device)
            all_reduce(flag, op="max")
            asked = bool(flag)
        if asked:
            meta, name = dict(epoch=runner.epoch, iter=iteration), f"iter_{iteration}.pth"
            runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
            raise Terminated
