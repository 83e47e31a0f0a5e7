"""Shrunk covariances, and what whitens features.

A whitener stands for a matrix W with :math:`W (S + \\epsilon v I) W^\\top = I`. For narrow tasks it
is W itself, for wide ones the Cholesky factor :math:`W^{-1}`, whose inverse would cost more. Any
whitening gives the canonical vectors of the paper's inverse square roots (Eq. 15).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["factor", "normalised", "unwhiten", "whiten", "whitener"]

NARROW = 64  # width up to which a whitener is the inverse factor


def normalised(s: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    r"""Covariances brought to unit mean variance and shrunk: :math:`S / v + \epsilon I`.

    Args:
        s (Tensor): (..., d, d) covariances.
        shrinkage (float): epsilon, prevents an infinite inverse of a singular covariance.

    Returns:
        The matrices, and sqrt(v) of each, (...,), where :math:`v = \mathrm{tr}(S) / d`.
    """
    variance = s.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_(min=torch.finfo(s.dtype).tiny)
    scaled = s / variance[..., None, None]
    scaled.diagonal(dim1=-2, dim2=-1).add_(shrinkage)
    return scaled, variance.sqrt_()


def factor(s: Tensor, shrinkage: float) -> Tensor:
    r"""Cholesky factors (..., d, d) of the shrunk covariances :math:`S + \epsilon v I`."""
    scaled, unit = normalised(s, shrinkage)
    return torch.linalg.cholesky_ex(scaled)[0].mul_(unit[..., None, None])


def whitener(s: Tensor, shrinkage: float) -> Tensor:
    """(..., d, d) of the shrunk covariances, for :func:`whiten`."""
    lower = factor(s, shrinkage)
    if s.shape[-1] > NARROW:
        return lower
    identity = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    return torch.linalg.solve_triangular(lower, identity, upper=False)


def whiten(w: Tensor, x: Tensor) -> Tensor:
    """W x, of (P, d, k)."""
    if w.shape[-1] <= NARROW:
        return torch.bmm(w, x)
    return torch.linalg.solve_triangular(w, x, upper=False)


def unwhiten(w: Tensor, x: Tensor) -> Tensor:
    """W' x, of (P, d, k): directions of whitened features as those of the features."""
    if w.shape[-1] <= NARROW:
        return torch.bmm(w.mT, x)
    return torch.linalg.solve_triangular(w.mT, x, upper=True)
