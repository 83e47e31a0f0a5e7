"""The state of a process's random generators as plain data."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["check_random_state", "random_state", "set_random_state"]


def random_state() -> dict:
    """State of Python's, numpy's and torch's generators, of torch also on the current GPU."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": (version, torch.tensor(words), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def check_random_state(state: dict) -> None:
    """Set the generators to a state, and back.

    Raises:
        TypeError, ValueError, KeyError, RuntimeError: no such state.
    """
    current = random_state()
    try:
        set_random_state(state)
    finally:
        set_random_state(current)


def set_random_state(state: dict) -> None:
    """Set the generators to a state that :func:`random_state` gave.

    Raises:
        TypeError, ValueError, KeyError, RuntimeError: no such state.
    """
    version, words, gauss = state["python"]
    kind, keys, position, has_gauss, cached = state["numpy"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu())
