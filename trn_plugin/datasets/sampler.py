"""Samplers that yield (index, epoch, seed), for reproducible augmentation."""

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

    MMEngine gives new workers the same seed each epoch: an augmentation by a worker's global
    generator repeats itself and depends on the number of workers. Here epoch and seed travel with
    the index, and the data set seeds the sample's generator with them.

    Args:
        dataset: anything with a length.
        shuffle: use a new random order each epoch.
        seed: seed of order and augmentations; None: a random one, shared by all processes.
        round_up: pad so that all processes get equally many samples.
    """

    yields_draws = True

    def __iter__(self) -> Iterator[SampleDraw]:
        for index in super().__iter__():
            yield SampleDraw(index, self.epoch, self.seed)


@DATA_SAMPLERS.register_module()
class NumberedDraws(Sampler):
    """Wraps any sampler and yields its indices as `SampleDraw`, in the same order.

    A draw is identified by its epoch and its position over all processes; indices alternate between
    the processes, as in MMEngine's and torch's samplers. `SafeRunner` wraps every sampler but
    `DrawSampler`. All other attributes are the wrapped sampler's.

    Args:
        dataset: the sampler's data set.
        sampler: a sampler or its config.
        seed: seed of sampler and augmentations, unless the sampler has a seed; None: a random one,
            shared by all processes.

    Attributes:
        epoch (int): set by `set_epoch`.
    """

    yields_draws = True

    def __init__(self, dataset: Sized, sampler: dict | Sampler, seed: int | None = None) -> None:
        if isinstance(sampler, dict):
            sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        self.sampler = sampler
        if not isinstance(getattr(sampler, "seed", None), Integral):
            sampler.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0

    @property
    def seed(self) -> int:
        """Seed of the wrapped sampler."""
        return self.sampler.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.sampler.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, also of the wrapped sampler if it takes one."""
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[SampleDraw]:
        rank, processes = get_dist_info()
        for number, index in enumerate(self.sampler):
            try:
                index = operator.index(index)
            except TypeError:  # the data set takes keys other than integers
                yield index
            else:
                yield SampleDraw(index, self.epoch, self.seed, rank + number * processes)

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == "sampler" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.sampler, name)
