"""MMEngine's checkpoint hook, never without a whole checkpoint on disk."""

from __future__ import annotations

import hashlib
import os
import re

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from trn_plugin.engine.checkpoint import load_checkpoint_file
from trn_plugin.engine.directions import direction_of, with_directions
from trn_plugin.engine.loops import IterationLoop
from trn_plugin.engine.step_log import StepLogHook
from trn_plugin.engine.writing import save_checkpoint_file
from trn_plugin.errors import CheckpointError, ConfigError

__all__ = ["SafeCheckpointHook", "own_default_hooks", "own_hook"]


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
        """As MMEngine's; a best checkpoint that a file names elsewhere is not this run's."""
        if self.by_epoch and isinstance(runner.train_loop, IterationLoop):
            self._count_iterations(runner)
        super().before_train(runner)
        if not self._is_best(getattr(self, "best_ckpt_path", None)):
            self.best_ckpt_path = None
        known = getattr(self, "best_ckpt_path_dict", None) or {}
        for indicator, path in known.items():
            if not self._is_best(path):
                known[indicator] = None
        if getattr(runner, "resumed_from", None) and is_main_process():
            for path in (self.best_ckpt_path, *known.values()):
                _remove_earlier_best(path)

    def _is_best(self, path) -> bool:
        """Whether a file is one that this hook may have written as the best."""
        if not isinstance(path, str):
            return False
        folder, name = os.path.split(path)
        inside = os.path.realpath(folder) == os.path.realpath(self.out_dir)
        return inside and name.startswith("best_") and name.endswith(".pth")

    def _count_iterations(self, runner) -> None:
        length = len(runner.train_dataloader)
        self.by_epoch = False
        self.interval, self.save_begin = self.interval * length, self.save_begin * length
        self.filename_tmpl = self.filename_tmpl.replace("epoch_", "iter_")
        if self.interval > 0:
            runner.logger.info(
                f"default_hooks.checkpoint: a checkpoint every {self.interval} iterations, that "
                f"is {self.interval // length} passes over the data"
            )

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
        backend = self.file_backend
        self.file_backend = later = _RemovesLater(backend)
        try:
            super().after_val_epoch(runner, metrics)
        finally:
            self.file_backend = backend
        best = getattr(self, "best_ckpt_path_dict", None) or {}
        kept = (getattr(self, "best_ckpt_path", None), *best.values())
        for path in later.removed:
            if path not in kept:
                backend.remove(path)

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

    def _publish_model(self, runner, ckpt_path: str) -> None:
        if is_main_process():
            checkpoint = load_checkpoint_file(ckpt_path)
            published = {k: v for k, v in checkpoint.items() if k in self.published_keys}
            name = os.path.splitext(ckpt_path)[0]
            save_checkpoint_file(published, f"{name}-published.pth")
            with open(f"{name}-published.pth", "rb") as file:
                path = f"{name}-{hashlib.sha256(file.read()).hexdigest()[:8]}.pth"
            os.replace(f"{name}-published.pth", path)
            runner.logger.info(f"{ckpt_path} is published as {path}")

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


def own_hook(hook):
    """The config of a hook: this package's own for MMEngine's, with the rules of measures."""
    if not isinstance(hook, dict):
        return hook
    kind = hook.get("type")
    kind = kind.removeprefix("mmengine.") if isinstance(kind, str) else kind
    if kind == "CheckpointHook":
        return {**with_directions(hook), "type": SafeCheckpointHook}
    if kind == "RuntimeInfoHook":
        return {**hook, "type": StepLogHook}
    return with_directions(hook) if kind == "EarlyStoppingHook" else hook


def own_default_hooks(hooks: dict | None) -> dict:
    """The default hooks of a config, with those that MMEngine adds."""
    always = dict(
        runtime_info=dict(type="RuntimeInfoHook"),
        checkpoint=dict(type="CheckpointHook", interval=1),
    )
    return {name: own_hook(hook) for name, hook in {**always, **(hooks or {})}.items()}


def _remove_earlier_best(path: str | None) -> None:
    """Remove what a kill left between writing a best checkpoint and removing the one before."""
    if path is None or not os.path.isfile(path):
        return
    folder, name = os.path.split(path)
    parts = re.fullmatch(r"(best_.*_(?:epoch|iter)_)\d+\.pth", name)
    for other in os.listdir(folder) if parts else ():
        if other != name and re.fullmatch(rf"{re.escape(parts[1])}\d+\.pth", other):
            os.remove(os.path.join(folder, other))


class _RemovesLater:
    """A file backend that notes what is to be removed; folders are no checkpoints of ours."""

    def __init__(self, backend) -> None:
        self._backend = backend
        self.removed: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self._backend, name)

    def isdir(self, path) -> bool:
        return False

    def remove(self, path) -> None:
        self.removed.append(path)


def _write_name(path: str, name: str) -> None:
    """MMEngine's other tools look for the newest checkpoint in this file."""
    try:
        with open(f"{path}.part", "w", encoding="utf-8") as file:
            file.write(name)
        os.replace(f"{path}.part", path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from error
