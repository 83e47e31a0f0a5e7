"""MMEngine's checkpoint hook, never without a whole checkpoint on disk."""

from __future__ import annotations

import os
import re
from collections import deque

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook

from trn_plugin.engine.loops import IterationLoop
from trn_plugin.engine.step_log import StepLogHook
from trn_plugin.errors import ConfigError
from trn_plugin.registry import METRICS

__all__ = ["SafeCheckpointHook", "own_hook", "with_defaults"]


class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, which deletes old checkpoints before it writes the new one.

    Here the new one is written first, so that a run killed in between has lost nothing even with
    ``max_keep_ckpts=1``; so too the best one of ``save_best``, which 'auto' makes the first
    measure whose direction is known. In a run by iterations an interval of epochs is one of as
    many passes over the data. ``SafeRunner`` uses it where a config says ``CheckpointHook``.

    Raises:
        ConfigError: after a validation that does not measure what ``save_best`` names.
    """

    def __init__(self, interval: int = -1, *args, **options) -> None:
        super().__init__(interval, *args, **options)
        for name in ("interval", "max_keep_ckpts", "save_begin"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(
                    f"default_hooks.checkpoint.{name}: expected a whole number, found {value!r}"
                )

    def before_train(self, runner) -> None:
        """As MMEngine's; what a kill left beside a best checkpoint is removed."""
        if self.by_epoch and isinstance(runner.train_loop, IterationLoop):
            length = len(runner.train_dataloader)
            self.by_epoch = False
            self.interval, self.save_begin = self.interval * length, self.save_begin * length
            self.filename_tmpl = self.filename_tmpl.replace("epoch_", "iter_")
            runner.logger.info(
                f"default_hooks.checkpoint: its interval is one of passes over the data, "
                f"{self.interval} iterations"
            )
        super().before_train(runner)
        if runner.resumed_from:
            for path in self._best():
                parts = re.fullmatch(r"(best_.*_(?:epoch|iter)_)\d+\.pth", os.path.basename(path))
                names = os.listdir(self.out_dir) if parts and os.path.isfile(path) else ()
                for name in names:
                    if re.fullmatch(rf"{re.escape(parts[1])}\d+\.pth", name):
                        self._remove_best(os.path.join(self.out_dir, name))

    def after_val_epoch(self, runner, metrics) -> None:
        """As MMEngine's; old best checkpoints are removed when the new one is written.

        Raises:
            ConfigError: a measure of ``save_best`` that the validation does not have.
        """
        for indicator in self.key_indicators if self.save_best else ():
            if indicator not in (*metrics, "auto"):
                raise ConfigError(
                    f"default_hooks.checkpoint.save_best: expected one of {', '.join(metrics)}, "
                    f"got {indicator!r}"
                )
            if indicator == "auto" and metrics:
                metrics = self._best_known_first(metrics)
        before, backend = self._best(), self.file_backend
        self.file_backend = _RemovesNothing()
        try:
            super().after_val_epoch(runner, metrics)
        finally:
            self.file_backend = backend
        for path in before:
            self._remove_best(path)

    def _best(self) -> list[str]:
        """Best checkpoints, as a file may name them that was resumed from."""
        several = getattr(self, "best_ckpt_path_dict", None) or {}
        found = (getattr(self, "best_ckpt_path", None), *several.values())
        return [path for path in found if isinstance(path, str)]

    def _remove_best(self, path: str) -> None:
        """Remove a file that this hook has written and that is no longer the best."""
        folder, name = os.path.split(path)
        inside = os.path.realpath(folder) == os.path.realpath(self.out_dir)
        own = inside and name.startswith("best_") and name.endswith(".pth")
        kept = [os.path.basename(best) for best in self._best()]
        if own and name not in kept and os.path.isfile(path) and is_main_process():
            os.remove(path)

    def _best_known_first(self, metrics: dict) -> dict:
        for name in metrics:
            rule = direction_of(name)
            if rule is not None:
                self.greater_keys = [name] if rule == "greater" else []
                self.less_keys = [name] if rule == "less" else []
                return {name: metrics[name], **metrics}
        raise ConfigError(
            "default_hooks.checkpoint.save_best: 'auto' knows of none of "
            f"{', '.join(metrics) or 'no measures'} whether more is better; name one, and its rule"
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
    def isfile(self, filepath) -> bool:
        return False

    isdir = isfile


def own_hook(hook):
    """The config of a hook: this package's own for MMEngine's, with the rules of measures."""
    if not isinstance(hook, dict):
        return hook
    kind = hook.get("type")
    kind = kind.removeprefix("mmengine.") if isinstance(kind, str) else kind
    if kind == "CheckpointHook":
        return {**_with_rule(hook, "save_best"), "type": SafeCheckpointHook}
    if kind == "RuntimeInfoHook":
        return {**hook, "type": StepLogHook}
    return _with_rule(hook, "monitor") if kind == "EarlyStoppingHook" else hook


def with_defaults(hooks: dict | None) -> dict:
    """The default hooks of a config, with those that MMEngine adds; None leaves one out."""
    always = dict(
        runtime_info=dict(type="RuntimeInfoHook"),
        timer=dict(type="IterTimerHook"),
        sampler_seed=dict(type="DistSamplerSeedHook"),
        logger=dict(type="LoggerHook"),
        param_scheduler=dict(type="ParamSchedulerHook"),
        checkpoint=dict(type="CheckpointHook", interval=1),
    )
    return {k: hook for k, hook in {**always, **(hooks or {})}.items() if hook is not None}


def direction_of(measure: str) -> str | None:
    """'greater' or 'less' for a key of the metrics; None where no metric says so.

    A metric's class says it in ``directions``, by the name of a measure; longer names that begin
    with it and an underscore are measured likewise.
    """
    METRICS.import_from_location()
    name = measure.rpartition("/")[2]
    for kind in METRICS.module_dict.values():
        known = getattr(kind, "directions", {})
        for own in sorted(known, key=len, reverse=True):
            if name == own or name.startswith(f"{own}_"):
                return known[own]
    return None


def _with_rule(hook: dict, key: str) -> dict:
    """The config of a hook that compares measures, with the rule of those that it names."""
    measures = hook.get(key)
    listed = measures if isinstance(measures, (list, tuple)) else [measures]
    if hook.get("rule") is not None or not all(isinstance(name, str) for name in listed):
        return hook
    rules = [direction_of(name) for name in listed]
    if not rules or None in rules:
        return hook
    return {**hook, "rule": rules[0] if isinstance(measures, str) else rules}
