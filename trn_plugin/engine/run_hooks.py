"""Small hooks that every run of ``SafeRunner`` has."""

from __future__ import annotations

import contextlib
import signal
import threading

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import EarlyStoppingHook, Hook

from trn_plugin.engine.checkpoint import shown
from trn_plugin.engine.distributed import average_statistics
from trn_plugin.engine.finite import FiniteSteps
from trn_plugin.engine.model_state import nonfinite_state
from trn_plugin.engine.optimizers import nonfinite_moment
from trn_plugin.errors import ConfigError, TrainingError
from trn_plugin.stopping import Terminated
from trn_plugin.tasks import Task, read_task

__all__ = ["check_loadable", "run_hooks"]

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
        tested_on = getattr(runner.test_dataloader.dataset, "metainfo", None)
        model, data = _tasks(trained_on), _tasks(tested_on)
        for task in model.keys() & data.keys():
            theirs, ours = list(model[task].names), list(data[task].names)
            if theirs != ours:
                runner.logger.warning(
                    f"{task}: the model was trained with {model[task].noun} {shown(theirs)}, the "
                    f"test data has {shown(ours)}: what it measures may be wrong"
                )


def _tasks(metainfo) -> dict[str, Task]:
    """The tasks that can be read."""
    infos = metainfo.get("tasks") if isinstance(metainfo, dict) else None
    tasks = {}
    for name, info in infos.items() if isinstance(infos, dict) else ():
        with contextlib.suppress(ConfigError):
            tasks[name] = read_task(name, info)
    return tasks


class SaveOnTerminateHook(Hook):
    """Writes a checkpoint when the process is asked to end by SIGTERM, then ends the run."""

    priority = LAST

    def __init__(self) -> None:
        self.asked = False

    def before_train(self, runner) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._note)

    def after_train(self, runner) -> None:
        if hasattr(self, "before"):
            signal.signal(signal.SIGTERM, self.before)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._save_if_asked(runner, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._save_if_asked(runner, runner.iter)

    def _note(self, signum, frame) -> None:
        self.asked = True

    def _save_if_asked(self, runner, iteration: int) -> None:
        asked = torch.tensor(int(self.asked), device=next(runner.model.parameters()).device)
        if get_world_size() > 1:
            all_reduce(asked, op="max")
        if self.asked or (get_world_size() > 1 and bool(asked)):
            meta = dict(epoch=runner.epoch, iter=iteration)
            runner.save_checkpoint(
                runner.work_dir, f"iter_{iteration}.pth", meta=meta, by_epoch=False
            )
            raise Terminated


def check_loadable(runner, optimizer: bool) -> None:
    """Refuse to save what could not be loaded again.

    Raises:
        TrainingError: weights, statistics, or moments of an optimizer, that are not finite.
    """
    model = runner.bare_model
    bad = nonfinite_state(model.state_dict(), runner.finite_steps and runner.finite_steps.built)
    kind = "weights" if bad in dict(model.named_parameters()) else "statistics"
    what = f"the {kind} of {bad} are"
    if bad is None and optimizer:
        bad = nonfinite_moment(runner.optim_wrapper)
        what = f"the optimizer's {bad} is"
    if bad is not None:
        raise TrainingError(
            f"iteration {runner.iter}: {what} not finite and not saved; "
            f"{runner.last_checkpoint_text()}"
        )
