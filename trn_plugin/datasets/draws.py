"""A draw of a sample (index, epoch, seed), and its random numbers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

__all__ = ["SampleDraw", "draw_of", "evaluation_generator", "generator_of", "reading"]

TRAIN_STREAM, EVAL_STREAM = 0, 1  # independent streams: training draws, evaluation boxes


class SampleDraw(int):
    """The index of a sample, with the epoch and the seed that fix its augmentation.

    A wrapping data set computes a plain index from it; `reading` keeps the draw for the data sets
    within.

    Attributes:
        epoch (int): epoch of the draw.
        seed (int): seed of the run.
        position (int | None): position in the epoch, over all processes; None if an epoch has each
            sample once.
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


_current: ContextVar[SampleDraw | None] = ContextVar("draw", default=None)


@contextmanager
def reading(index: int) -> Iterator[None]:
    """Within this context, plain indices belong to the draw ``index``.

    A plain ``index`` belongs to the draw of the enclosing `reading`, if any.
    """
    token = _current.set(index if isinstance(index, SampleDraw) else _current.get())
    try:
        yield
    finally:
        _current.reset(token)


def draw_of(index: int) -> SampleDraw:
    """The draw of an index.

    Returns:
        ``index`` itself if it is a `SampleDraw`; else the draw of the enclosing `reading`, with a
        position, since a wrapper may read a sample more than once; else a random draw.
    """
    if isinstance(index, SampleDraw):
        return index
    outer = _current.get()
    if outer is None:
        return SampleDraw(index, seed=secrets.randbits(64))
    position = int(outer) if outer.position is None else outer.position
    return SampleDraw(index, outer.epoch, outer.seed, position)


def generator_of(draw: SampleDraw, index: int) -> np.random.Generator:
    """The generator of a draw for sample ``index``.

    Philox is a counter-based generator: the seed is its key, (position, epoch, index) its counter,
    so that each draw owns 2^64 blocks of numbers.
    """
    position = 0 if draw.position is None else draw.position + 1
    counter = np.array([0, position, draw.epoch, index], np.uint64)
    key = np.array([draw.seed % 2**64, TRAIN_STREAM], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def evaluation_generator(seed: int, row: int) -> np.random.Generator:
    """The generator of a row's evaluation box: the same in every epoch and run."""
    sequence = np.random.SeedSequence(seed, spawn_key=(EVAL_STREAM, row))
    return np.random.default_rng(sequence)
