"""A draw of a sample (index, epoch, seed), and its random numbers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

__all__ = ["SampleDraw", "SampleGenerator", "draw_of", "evaluation_generator", "reading"]

TRAIN_STREAM, EVAL_STREAM = 0, 1  # independent streams: training draws, evaluation boxes


class SampleDraw(int):
    """The index of a sample, with the epoch and the seed that fix its augmentation.

    A wrapping data set turns it into a plain index; `reading` keeps it for the inner data sets.

    Attributes:
        epoch (int): epoch of the draw.
        seed (int): seed of the run.
        position (int | None): position in the epoch, over all processes; None if each sample occurs
            once an epoch.
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
    """Context in which `draw_of` a plain index continues the draw ``index``.

    If ``index`` is a plain int, the draw of the enclosing context stays.
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


class SampleGenerator:
    """One generator, reseeded for each draw: creating a new one takes 17 microseconds.

    Philox is a counter-based generator: the seed is its key, (position, epoch, index) its counter,
    so that each draw owns 2^64 blocks of numbers.
    """

    def __init__(self) -> None:
        self.generator = np.random.Generator(np.random.Philox(key=0))
        self.state = self.generator.bit_generator.state

    def at(self, draw: SampleDraw, index: int) -> np.random.Generator:
        """The generator of a draw for sample ``index``; valid until the next call."""
        position = 0 if draw.position is None else draw.position + 1
        self.state["state"]["key"][:] = draw.seed % 2**64, TRAIN_STREAM
        self.state["state"]["counter"][:] = 0, position, draw.epoch, index
        self.generator.bit_generator.state = self.state
        return self.generator


def evaluation_generator(seed: int, row: int) -> np.random.Generator:
    """The generator of a row's evaluation box: the same in every epoch and run."""
    sequence = np.random.SeedSequence(seed, spawn_key=(EVAL_STREAM, row))
    return np.random.default_rng(sequence)
