"""MMEngine's training loops, able to go on from any batch without decoding those before it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mmengine.dataset import InfiniteSampler
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from trn_plugin.errors import ConfigError

__all__ = ["EpochLoop", "IterationLoop", "batches_from"]


def batches_from(loader: DataLoader, start: int) -> Iterator:
    """The batches of an epoch from the one of index ``start`` on; those before are not read.

    Raises:
        ConfigError: a batch sampler that cannot be forwarded.
    """
    batch_sampler = loader.batch_sampler
    if start == 0:
        yield from loader
        return
    if not hasattr(batch_sampler, "sampler") or not hasattr(batch_sampler, "batch_size"):
        raise ConfigError(
            f"train_dataloader.batch_sampler: {type(batch_sampler).__name__} has no 'sampler' and "
            "'batch_size', so that a run cannot go on within an epoch; resume from the checkpoint "
            "of a whole epoch"
        )
    sampler = batch_sampler.sampler
    batch_sampler.sampler = _Rest(sampler, start * batch_sampler.batch_size)
    try:
        yield from loader
    finally:
        batch_sampler.sampler = sampler


class _Rest:
    """A sampler's indices from the n-th on; its length is that of the whole epoch."""

    def __init__(self, sampler, start: int) -> None:
        self.sampler = sampler
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self.sampler), self.start, None)

    def __len__(self) -> int:
        return len(self.sampler)


class _ValidatesAfterResume:
    """A checkpoint is written before the validation that may be due at its iteration."""

    def _validate_if_due(self, step: int, last: int) -> None:
        self._decide_current_val_interval()
        due = step % self.val_interval == 0 or step == last
        if self.runner.val_loop is not None and step >= self.val_begin and due:
            self.runner.val_loop.run()

    def _validate_what_was_due(self, step: int, last: int) -> None:
        if self.runner.owes_validation:
            self.runner.owes_validation = False
            if step > 0:
                self._validate_if_due(step, last)


class EpochLoop(_ValidatesAfterResume, EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop``; a resumed run may begin within an epoch.

    Attributes:
        done (int): batches of the current epoch that are done.
    """

    done = 0

    def run(self):
        """Launch training."""
        self.runner.call_hook("before_train")
        if self.done == 0:
            self.runner.restore_random_state()
            self._validate_what_was_due(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due(self._epoch, self._max_epochs)
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Iterate one epoch, or the rest of it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.restore_random_state()
        self.runner.model.train()
        for idx, data_batch in enumerate(batches_from(self.dataloader, self.done), self.done):
            self.run_iter(idx, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.done = 0

    def run_iter(self, idx, data_batch) -> None:
        """Iterate one mini-batch."""
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.finite_steps.train_step(data_batch)
        self.done = idx + 1
        self.runner.call_hook(
            "after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1


class IterationLoop(_ValidatesAfterResume, IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop``; passes over the data are numbered from 0.

    The sampler's epoch is the number of the pass, so that every pass has its own order and
    augmentation. mmengine's ``InfiniteSampler`` has one endless pass.
    """

    def __init__(
        self, runner, dataloader, max_iters, val_begin=1, val_interval=1000, dynamic_intervals=None
    ):
        # the parent's __init__ would start the workers before a resumed run knows where it is
        built = EpochBasedTrainLoop(
            runner, dataloader, 1, val_begin, val_interval, dynamic_intervals
        )
        vars(self).update(vars(built))
        self._max_iters = int(max_iters)
        if self._max_iters != max_iters:
            raise ValueError(f"max_iters: expected an integer, found {max_iters!r}")

    def run(self):
        """Launch training."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.runner.restore_random_state()
        self._validate_what_was_due(self._iter, self._max_iters)
        batches = self._batches(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._validate_if_due(self._iter, self._max_iters)
        batches.close()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self, data_batch) -> None:
        """Iterate one mini-batch."""
        idx = self._iter
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.finite_steps.train_step(data_batch)
        self.runner.call_hook(
            "after_train_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    def _batches(self, start: int) -> Iterator:
        sampler = self.dataloader.batch_sampler.sampler
        if isinstance(sampler, InfiniteSampler):
            yield from batches_from(self.dataloader, start)
        first, start = divmod(start, len(self.dataloader))
        for epoch in itertools.count(first):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            yield from batches_from(self.dataloader, start)
            start = 0
