"""Small products and decompositions on a CPU, by NumPy: its calls cost least."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["SMALL", "small_pair", "times"]

ONE_THREAD = 2**18  # multiplications up to which OpenBLAS starts no threads
SMALL = 64  # columns of square matrices whose product takes so many


def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(k,) or (m, k) times (k, n).

    By NumPy, whose call costs least, as long as that stays in one thread; beyond, by PyTorch.
    Threads of both libraries hold each other up for milliseconds.
    """
    if a.size * b.shape[1] <= ONE_THREAD:
        return a @ b
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


def small_pair(
    s11: np.ndarray, s12: np.ndarray, s22: np.ndarray, shrinkage: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """:func:`canonical_vectors` of one pair of narrow tasks, at a few calls' cost.

    Args:
        s11, s12, s22 (ndarray): (d1, d1), (d1, d2), (d2, d2) float64 moments, d at most ``SMALL``.
        shrinkage (float): epsilon, see :func:`factor`.

    Returns:
        tau (1,), a (1, d1) and b (1, d2); None where a decomposition fails.
    """
    try:
        w1, w2 = _whitener(s11, shrinkage), _whitener(s22, shrinkage)
        u, s, vh = np.linalg.svd(w1 @ s12 @ w2.T, full_matrices=False)
    except np.linalg.LinAlgError:
        return None
    if not s[0] > 64 * np.finfo(s.dtype).eps:
        return np.zeros(1), np.zeros((1, len(s11))), np.zeros((1, len(s22)))
    return np.minimum(s[:1], 1.0), u[:, :1].T @ w1, vh[:1] @ w2


def _whitener(s: np.ndarray, shrinkage: float) -> np.ndarray:
    """(d, d) inverse of the factor of the shrunk moments."""
    size = max(s.trace() / len(s), np.finfo(s.dtype).tiny)
    scaled = s / size
    scaled.flat[:: len(s) + 1] += shrinkage
    return np.linalg.inv(np.linalg.cholesky(scaled)) / size**0.5
