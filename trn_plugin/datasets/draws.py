"""Which draw of a sample is being read, and the random numbers that belong to it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

__all__ = ["DrawnResults", "SampleDraw", "SampleGenerator", "draw_of", "reading"]

# Keep the generators of training draws and of evaluation boxes apart.
TRAIN_STREAM, EVAL_STREAM = 0, 1


class SampleDraw(int):
    """The index of a sample that also says when it was drawn.

    A data set that wraps another computes a new, plain index from it; `reading` keeps the draw
    for the data sets within.

    Attributes:
        epoch (int): epoch of the draw.
        seed (int): the run's seed.
        position (int | None): place of the draw in its epoch, over all processes; None where an
            epoch has each sample once.
    """

    epoch: int
    seed: int
    position: int | None

    def __new__(
        cls, index: int, epoch: int = 0, seed: int = 0, position: int | None = None
    ) -> SampleDraw:
        draw = super().__new__(cls, index)
        draw.epoch = int(epoch)
        draw.seed = int(seed)
        draw.position = position
        return draw

    def __getnewargs__(self) -> tuple[int, int, int, int | None]:
        return int(self), self.epoch, self.seed, self.position

    def __repr__(self) -> str:
        place = "" if self.position is None else f", position={self.position}"
        return f"SampleDraw({int(self)}, epoch={self.epoch}, seed={self.seed}{place})"


_read: ContextVar[SampleDraw | None] = ContextVar("draw", default=None)


@contextmanager
def reading(index: int) -> Iterator[None]:
    """While this lasts, plain indices that are read belong to the draw ``index``.

    A plain ``index`` belongs itself to the draw of a `reading` around this one, if there is one.
    """
    token = _read.set(index if isinstance(index, SampleDraw) else _read.get())
    try:
        yield
    finally:
        _read.reset(token)


def draw_of(index: int) -> SampleDraw:
    """The draw that reads a sample.

    Returns:
        ``index`` itself if it is a `SampleDraw`; else that of `reading`, with a position, as a
        wrapper may read a sample for several indices of its own; else a random one.
    """
    if isinstance(index, SampleDraw):
        return index
    outer = _read.get()
    if outer is None:
        return SampleDraw(index, seed=secrets.randbits(64))
    position = int(outer) if outer.position is None else outer.position
    return SampleDraw(index, outer.epoch, outer.seed, position)


class SampleGenerator:
    """One generator that is set to the numbers of a draw, which is cheaper than a new one.

    Philox makes its numbers of a key, here the seed, and a counter, here (position, epoch, index):
    each draw has a stretch of 2^64 blocks to itself.
    """

    def __init__(self) -> None:
        self.generator = np.random.Generator(np.random.Philox(key=0))
        self.state = self.generator.bit_generator.state

    def at(self, draw: SampleDraw, index: int) -> np.random.Generator:
        """The generator of a draw, of the sample ``index`` of a data set."""
        key, counter = self.state["state"]["key"], self.state["state"]["counter"]
        key[:] = draw.seed % 2**64, TRAIN_STREAM
        counter[:] = 0, 0 if draw.position is None else draw.position + 1, draw.epoch, index
        self.generator.bit_generator.state = self.state
        return self.generator


class DrawnResults(dict):
    """A pipeline's results; makes ``eval_rng`` when it is asked for, which few pipelines do.

    Args:
        record: what they begin with.
        eval_key: seed and row that ``eval_rng`` depends on.
        **more: entries beside the record's.
    """

    def __init__(self, record: dict, eval_key: tuple[int, int], **more) -> None:
        super().__init__(record, **more)
        self.eval_key = eval_key

    def __missing__(self, key: str) -> np.random.Generator:
        if key != "eval_rng":
            raise KeyError(key)
        seed, row = self.eval_key
        sequence = np.random.SeedSequence(seed, spawn_key=(EVAL_STREAM, row))
        self[key] = np.random.default_rng(sequence)
        return self[key]
