"""MMEngine's training loops, able to resume at any batch without decoding those before it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mmengine.dataset import InfiniteSampler
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from trn_plugin.engine.building import replaced
from trn_plugin.errors import CheckpointError, ConfigError, shown

__all__ = ["EpochLoop", "IterationLoop", "batches_from", "own_log_processor", "own_loop"]


def batches_from(loader: DataLoader, start: int) -> Iterator:
    """The batches of an epoch from index ``start`` on; earlier ones are not read."""
    if start == 0:
        yield from loader
        return
    batch_sampler = loader.batch_sampler
    sampler = batch_sampler.sampler
    batch_sampler.sampler = _Remaining(sampler, start * batch_sampler.batch_size)
    try:
        yield from loader
    finally:
        batch_sampler.sampler = sampler


class _Remaining:
    """A sampler's indices from ``start`` on; the length stays that of the whole epoch."""

    def __init__(self, sampler, start: int) -> None:
        self.sampler, self.start = sampler, start

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self.sampler), self.start, None)

    def __len__(self) -> int:
        return len(self.sampler)


class _Loop(BaseLoop):
    """Counts epochs, iterations and the batches of this epoch (``done``), and runs validations.

    ``validation_pending``: the checkpoint was written before a validation that was due.
    """

    def __init__(self, runner, dataloader, length, val_begin=1, val_interval=1) -> None:
        super().__init__(runner, dataloader)
        self.length = _whole(*length, 0)
        self.val_begin = _whole("val_begin", val_begin, 0)
        self.val_interval = _whole("val_interval", val_interval, 1)
        self.epoch = self.iter = self.done = 0
        self.stop_training = self.validation_pending = False
        runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, "metainfo", None)

    def _validate_if_due(self, step: int) -> None:
        due = step % self.val_interval == 0 or step == self.length
        if self.runner.val_loop is not None and step >= self.val_begin and due:
            self.runner.val_loop.run()

    def _begin(self, step: int) -> None:
        self.runner.restore_random_state()
        pending, self.validation_pending = self.validation_pending, False
        if pending and step > 0:
            self._validate_if_due(step)

    def _train_step(self, idx: int, data_batch) -> None:
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.finite_steps.train_step(data_batch)
        self.done = idx + 1  # before the hooks that may write a checkpoint
        self.runner.call_hook(
            "after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self.iter += 1

    def _number_epoch(self, epoch: int) -> None:
        """Pass the epoch to the sampler; otherwise each epoch would have the same order."""
        sampler = getattr(self.dataloader.batch_sampler, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)


class EpochLoop(_Loop):
    """MMEngine's ``EpochBasedTrainLoop``; can resume within an epoch."""

    def __init__(self, runner, dataloader, max_epochs, **options) -> None:
        super().__init__(runner, dataloader, ("max_epochs", max_epochs), **options)
        self.max_epochs, self.max_iters = self.length, self.length * len(self.dataloader)

    def run(self):
        """Launch training."""
        self.runner.call_hook("before_train")
        if self.done == 0:
            self._begin(self.epoch)
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due(self.epoch)
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Train for one epoch, or for the rest of it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.restore_random_state()
        self.runner.model.train()
        self._number_epoch(self.epoch)
        for idx, data_batch in enumerate(batches_from(self.dataloader, self.done), self.done):
            self._train_step(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self.epoch += 1
        self.done = 0

    def find_batch(self, meta: dict, filename) -> None:
        """Start at the batch within an epoch that a checkpoint's metadata names."""
        batches = len(self.dataloader)
        known, done = meta.get("batches", batches), meta.get("batch")
        if done is None:  # written by MMEngine
            done = meta["iter"] - meta["epoch"] * batches
            done = done if 0 <= done <= batches else 0
        if not isinstance(done, int) or (done and (known != batches or not 0 < done <= batches)):
            raise CheckpointError(
                f"{filename}: was written after {shown(done)} of an epoch's {shown(known)} "
                f"batches, but the config's epoch has {batches}; resume with the data, batch size "
                "and number of processes of that run, or from a checkpoint of the end of an epoch"
            )
        if known != batches:
            self.runner.logger.warning(f"an epoch had {shown(known)} batches, it now has {batches}")
        self.done = done


class IterationLoop(_Loop):
    """MMEngine's ``IterBasedTrainLoop``; each epoch has its own order and augmentations."""

    max_epochs = 1

    def __init__(self, runner, dataloader, max_iters, val_interval=1000, **options) -> None:
        options["val_interval"] = val_interval
        super().__init__(runner, dataloader, ("max_iters", max_iters), **options)
        self.max_iters = self.length

    def run(self):
        """Launch training."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self._begin(self.iter)
        batches = self._batches(self.iter)
        while self.iter < self.max_iters and not self.stop_training:
            self.runner.model.train()
            self._train_step(self.iter, next(batches))
            self._validate_if_due(self.iter)
        batches.close()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _batches(self, start: int) -> Iterator:
        sampler = getattr(self.dataloader.batch_sampler, "sampler", None)
        while hasattr(sampler, "yields_draws") and hasattr(sampler, "sampler"):
            sampler = sampler.sampler  # within NumberedDraws
        if isinstance(sampler, InfiniteSampler):  # one endless pass
            yield from batches_from(self.dataloader, start)
        first, start = divmod(start, len(self.dataloader))
        for epoch in itertools.count(first):
            self._number_epoch(epoch)
            yield from batches_from(self.dataloader, start)
            start = 0


def _whole(name: str, value, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ConfigError(f"train_cfg.{name}: expected a whole number, found {value!r}")
    if value < least:
        raise ConfigError(f"train_cfg.{name}: expected at least {least}, found {value!r}")
    return int(value)


def own_loop(loop):
    """Replace MMEngine's loop in a config by the one of this module."""
    own = {"EpochBasedTrainLoop": EpochLoop, "IterBasedTrainLoop": IterationLoop}
    if isinstance(loop, dict) and "type" not in loop and isinstance(loop.get("by_epoch"), bool):
        rest = {key: value for key, value in loop.items() if key != "by_epoch"}
        return {**rest, "type": EpochLoop if loop["by_epoch"] else IterationLoop}
    return replaced(loop, own)


def own_log_processor(log_processor, loop):
    """The log processor's config, with ours as default and ``by_epoch`` as in the loop."""
    if not isinstance(log_processor, dict):
        return log_processor
    by_epoch = not isinstance(loop, dict) or own_loop(loop).get("type") is not IterationLoop
    if log_processor.get("by_epoch") and not by_epoch:
        raise ConfigError("log_processor.by_epoch: expected False with IterBasedTrainLoop")
    return {"type": "trn_plugin.ScreenLogProcessor", "by_epoch": by_epoch, **log_processor}
