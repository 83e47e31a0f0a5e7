"""Save a checkpoint when SIGTERM ends a run."""

from __future__ import annotations

import signal

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook

from trn_plugin.registry import HOOKS
from trn_plugin.stopping import Terminated

__all__ = ["SaveOnTerminateHook"]


@HOOKS.register_module()
class SaveOnTerminateHook(Hook):
    """On SIGTERM, writes a checkpoint after the current iteration and ends the run."""

    priority = 99  # after all others
    asked = False

    def before_train(self, runner) -> None:
        self.before = signal.signal(signal.SIGTERM, self._ask)

    def after_train(self, runner) -> None:
        signal.signal(signal.SIGTERM, self.before or signal.SIG_DFL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._save_if_asked(runner, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._save_if_asked(runner, runner.iter)

    def _ask(self, signum, frame) -> None:
        self.asked = True

    def _save_if_asked(self, runner, iteration: int) -> None:
        asked = self.asked
        if get_world_size() > 1:  # SIGTERM to one process ends all
            flag = torch.tensor(int(asked), device=next(runner.model.parameters()).device)
            all_reduce(flag, op="max")
            asked = bool(flag)
        if asked:
            meta, name = dict(epoch=runner.epoch, iter=iteration), f"iter_{iteration}.pth"
            runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
            raise Terminated
