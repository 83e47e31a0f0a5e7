"""Samplers that hand each sample's draw on, so that augmentation depends on nothing else."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sized
from numbers import Integral
from typing import Any

from mmengine.dataset import DefaultSampler
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from trn_plugin.datasets.draws import SampleDraw
from trn_plugin.registry import DATA_SAMPLERS

__all__ = ["DrawSampler", "NumberedDraws"]


@DATA_SAMPLERS.register_module()
class DrawSampler(DefaultSampler):
    """MMEngine's ``DefaultSampler`` (same shuffling, sharding and padding) yielding `SampleDraw`.

    MMEngine re-seeds new workers alike each epoch, so an augmentation that draws from a worker's
    global generator repeats itself and depends on the number of workers. Here the epoch and the
    seed travel with the index, and the data set makes the generator of the sample from them.

    Args:
        dataset: anything with a length.
        shuffle: draw a new order each epoch.
        seed: of the order and the augmentations; None takes one that all processes share.
        round_up: pad so that all processes get equally many samples.
    """

    yields_draws = True

    def __iter__(self) -> Iterator[SampleDraw]:
        for index in super().__iter__():
            yield SampleDraw(index, self.epoch, self.seed)


@DATA_SAMPLERS.register_module()
class NumberedDraws(Sampler):
    """Yields the indices of any other sampler as `SampleDraw`, in the same order.

    A draw is told by its epoch and its place among the draws of all processes, which deal the
    indices out in turn, as MMEngine's and torch's samplers do. `SafeRunner` puts it around every
    sampler but `DrawSampler`. Attributes that it lacks are those of the sampler.

    Args:
        dataset: of the sampler.
        sampler: config of a sampler, or a sampler.
        seed: of the sampler and of the augmentations, unless the sampler has one of its own; None
            takes one that all processes share.

    Attributes:
        epoch (int): as `set_epoch` was told.
    """

    yields_draws = True

    def __init__(self, dataset: Sized, sampler: dict | Sampler, seed: int | None = None) -> None:
        if isinstance(sampler, dict):
            given = dict(dataset=dataset, seed=seed)
            sampler = DATA_SAMPLERS.build(sampler, default_args=given)
        self.sampler = sampler
        if not isinstance(getattr(sampler, "seed", None), Integral):
            sampler.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0

    @property
    def seed(self) -> int:
        """The sampler's."""
        return self.sampler.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.sampler.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Number the epoch, for the sampler too if it takes a number."""
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[SampleDraw]:
        rank, processes = get_dist_info()
        for number, index in enumerate(self.sampler):
            try:
                index = operator.index(index)
            except TypeError:  # of a data set that is asked for something else
                yield index
            else:
                yield SampleDraw(index, self.epoch, self.seed, rank + number * processes)

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == "sampler" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.sampler, name)
