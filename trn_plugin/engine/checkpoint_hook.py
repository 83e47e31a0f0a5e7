"""MMEngine's checkpoint hook, never without a whole checkpoint on disk."""

from __future__ import annotations

import os

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from trn_plugin.errors import CheckpointError

__all__ = ["SafeCheckpointHook"]


class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, which deletes old checkpoints before it writes the new one.

    Here the new one is written first, so that a run killed in between has lost nothing even with
    ``max_keep_ckpts=1``. ``SafeRunner`` uses it where a config says ``CheckpointHook``.
    """

    def _save_checkpoint_with_step(self, runner, step, meta):
        kept = list(getattr(self, "keep_ckpt_ids", ()))
        old = []
        if self.max_keep_ckpts > 0 and step not in kept:
            old = kept[: max(0, len(kept) + 1 - self.max_keep_ckpts)]
            for known in old:
                self.keep_ckpt_ids.remove(known)
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            _write_name(os.path.join(runner.work_dir, "last_checkpoint"), self.last_ckpt)
            for known in old:
                path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(known))
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)


def _write_name(path: str, name: str) -> None:
    """MMEngine's other tools look for the newest checkpoint in this file."""
    try:
        with open(f"{path}.part", "w", encoding="utf-8") as file:
            file.write(name)
        os.replace(f"{path}.part", path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from error
