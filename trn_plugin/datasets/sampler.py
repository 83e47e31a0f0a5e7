"""A sampler that hands each sample's draw on, so that augmentation depends on nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.dataset import DefaultSampler

from trn_plugin.registry import DATA_SAMPLERS

__all__ = ["DrawSampler", "SampleDraw"]


class SampleDraw(int):
    """The index of a sample that also says when it was drawn.

    A data set that wraps another and computes a new index from this one (concatenation,
    repetition) loses the draw: its samples are those of epoch 0 and seed 0 in every epoch.

    Attributes:
        epoch (int): epoch of the draw.
        seed (int): the run's seed.
    """

    epoch: int
    seed: int

    def __new__(cls, index: int, epoch: int = 0, seed: int = 0) -> SampleDraw:
        draw = super().__new__(cls, index)
        draw.epoch = int(epoch)
        draw.seed = int(seed)
        return draw

    def __getnewargs__(self) -> tuple[int, int, int]:
        return int(self), self.epoch, self.seed

    def __repr__(self) -> str:
        return f"SampleDraw({int(self)}, epoch={self.epoch}, seed={self.seed})"


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

    def __iter__(self) -> Iterator[SampleDraw]:
        for index in super().__iter__():
            yield SampleDraw(index, self.epoch, self.seed)
