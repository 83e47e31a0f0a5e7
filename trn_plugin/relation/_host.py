"""Small products on a CPU."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["times"]

ONE_THREAD = 2**18  # multiplications up to which OpenBLAS starts no threads


def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(k,) or (m, k) times (k, n).

    By NumPy, whose call costs least, as long as that stays in one thread; beyond, by PyTorch.
    Threads of both libraries hold each other up for milliseconds.
    """
    if a.size * b.shape[1] <= ONE_THREAD:
        return a @ b
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
