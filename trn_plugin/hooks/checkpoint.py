"""MMEngine's checkpoint hook; writes the new checkpoint before deleting the old one."""

from __future__ import annotations

import inspect
import os
import re
from collections import deque
from collections.abc import Iterable

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.directions import rule_of
from trn_plugin.registry import HOOKS

__all__ = ["SafeCheckpointHook"]

TYPES = dict(interval=int, max_keep_ckpts=int, save_begin=int, by_epoch=bool, filename_tmpl=str)
NAMES = {int: "a whole number", bool: "True or False", str: "text"}


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, but it writes the new checkpoint before it deletes old ones.

    A run killed in between loses nothing, even with ``max_keep_ckpts=1``. The same holds for the
    checkpoint of ``save_best``; 'auto' selects the first measure with a known direction. In a run
    by iterations, an interval in epochs counts passes over the data. ``SafeRunner`` uses this hook
    where a config says ``CheckpointHook``.

    Raises:
        ConfigError: an invalid option, or ``save_best`` names no measure of the validation.
    """

    def __init__(self, interval: int = -1, save_best=None, rule=None, **options) -> None:
        rule = rule or rule_of(save_best)
        super().__init__(interval, save_best=save_best, rule=rule, **options)
        for name, kind in TYPES.items():
            value = getattr(self, name)
            if type(value) is not kind:
                raise ConfigError(
                    f"default_hooks.checkpoint.{name}: expected {NAMES[kind]}, found {value!r}"
                )

    def before_train(self, runner) -> None:
        """See MMEngine's; after a resume, also removes outdated best checkpoints.

        Raises:
            ConfigError: ``save_best`` without validation; an unknown option.
        """
        known = inspect.signature(runner.save_checkpoint).parameters
        for name in self.args.keys() - known.keys():
            raise ConfigError(f"default_hooks.checkpoint: no option is named {name!r}")
        if self.save_best and runner.val_loop is None:
            raise ConfigError(
                "default_hooks.checkpoint.save_best: expected a run that validates, found no "
                "val_cfg, val_dataloader and val_evaluator"
            )
        if self.by_epoch and not hasattr(runner.train_loop, "run_epoch"):
            length = len(runner.train_dataloader)
            self.by_epoch = False
            self.interval, self.save_begin = self.interval * length, self.save_begin * length
            self.filename_tmpl = self.filename_tmpl.replace("epoch_", "iter_")
            runner.logger.info(
                "default_hooks.checkpoint.interval: epochs are passes over the data; saving every "
                f"{self.interval} iterations"
            )
        super().before_train(runner)
        if getattr(runner, "resumed_from", None):
            self.last_ckpt = runner.resumed_from  # a better validation, if pending, rewrites it
            # a kill may have left outdated best checkpoints
            for best in self._best():
                stem = re.fullmatch(r"(best_.*_(?:epoch|iter)_)\d+\.pth", best)
                if stem and os.path.isfile(os.path.join(self.out_dir, best)):
                    names = os.listdir(self.out_dir)
                    pattern = rf"{re.escape(stem[1])}\d+\.pth"
                    self._remove(name for name in names if re.fullmatch(pattern, name))

    def after_val_epoch(self, runner, metrics) -> None:
        """See MMEngine's; removes the old best checkpoints after the new one is written.

        Raises:
            ConfigError: the validation does not measure ``save_best``.
        """
        for indicator in self.key_indicators if self.save_best else ():
            if indicator not in (*metrics, "auto"):
                raise ConfigError(
                    f"default_hooks.checkpoint.save_best: expected one of {', '.join(metrics)}, "
                    f"found {indicator!r}"
                )
            if indicator == "auto" and metrics:
                metrics = self._known_direction_first(metrics)
        before, backend = self._best(), self.file_backend
        self.file_backend = _RemovesNothing()
        try:
            super().after_val_epoch(runner, metrics)
        finally:
            self.file_backend = backend
        self._remove(before)

    def _best(self) -> list[str]:
        """File names of the best checkpoints; after a resume, those that the checkpoint names."""
        several = getattr(self, "best_ckpt_path_dict", None) or {}
        found = (getattr(self, "best_ckpt_path", None), *several.values())
        return [os.path.basename(path) for path in found if isinstance(path, str)]

    def _remove(self, names: Iterable[str]) -> None:
        """Remove the named files in ``out_dir`` that are former best checkpoints."""
        for name in set(names) - set(self._best()) if is_main_process() else ():
            path = os.path.join(self.out_dir, name)
            if re.fullmatch(r"best_.*\.pth", name) and os.path.isfile(path):
                os.remove(path)

    def _known_direction_first(self, metrics: dict) -> dict:
        for name in metrics:
            rule = rule_of(name)
            if rule is not None:
                self.greater_keys = [name] if rule == "greater" else []
                self.less_keys = [name] if rule == "less" else []
                return {name: metrics[name], **metrics}
        raise ConfigError(
            "default_hooks.checkpoint.save_best: 'auto' needs a measure with a known direction, "
            f"found {', '.join(metrics) or 'no measures'}; name one, and its rule"
        )

    def _save_checkpoint_with_step(self, runner, step, meta):
        old = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            kept = [*self.keep_ckpt_ids, step]
            old, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
            runner.message_hub.update_info("keep_ckpt_ids", kept)
        super()._save_checkpoint_with_step(runner, step, meta)
        for known in old if is_main_process() else ():
            path = os.path.join(self.out_dir, self.filename_tmpl.format(known))
            if os.path.isfile(path):
                os.remove(path)


class _RemovesNothing(LocalBackend):
    """Finds no files, so that MMEngine removes none."""

    def isfile(self, filepath) -> bool:
        return False

    isdir = isfile
