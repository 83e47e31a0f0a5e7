"""The largest canonical correlation of moment matrices, exactly, for a batch of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["canonical_vectors", "factor", "normalised", "whiten"]

# 2^SQUARINGS powers of a Gram matrix leave of a second value, 1e-5 below the first, e^-40
SQUARINGS = 21


def normalised(s: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    r"""Moments brought to unit mean variance and shrunk: :math:`S / v + \epsilon I`.

    Args:
        s (Tensor): (..., d, d) moments.
        shrinkage (float): epsilon; what keeps the factor of a singular matrix finite.

    Returns:
        The matrices, and the unit sqrt(v) of each, (...,), where :math:`v = \mathrm{tr}(S) / d`.
    """
    size = s.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_(min=torch.finfo(s.dtype).tiny)
    scaled = s / size[..., None, None]
    scaled.diagonal(dim1=-2, dim2=-1).add_(shrinkage)
    return scaled, size.sqrt_()


def factor(s: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Cholesky factors (..., d, d) of the :func:`normalised` moments, and their units (...,)."""
    scaled, unit = normalised(s, shrinkage)
    if s.shape[-1] == 1:
        return scaled.sqrt(), unit
    return torch.linalg.cholesky_ex(scaled)[0], unit


def whiten(l1: Tensor, unit1: Tensor, s12: Tensor, l2: Tensor, unit2: Tensor) -> Tensor:
    """(..., d1, d2) cross moments of features whitened by their factors."""
    k = _solve(l1, s12 / (unit1 * unit2)[..., None, None])
    return _solve(l2, k.mT).mT


def canonical_vectors(
    l1: Tensor, unit1: Tensor, s12: Tensor, l2: Tensor, unit2: Tensor, on_host: bool
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Largest canonical correlation, and its pair of canonical vectors.

    Any whitening gives the same vectors as the paper's inverse square roots (Eq. 10, Eq. 15).

    Args:
        l1, unit1 (Tensor): (P, d1, d1) and (P,), the factors of one side; see :func:`factor`.
        s12 (Tensor): (P, d1, d2) cross moments.
        l2, unit2 (Tensor): (P, d2, d2) and (P,), the factors of the other side.
        on_host (bool): decompose by LAPACK; otherwise by powers of a matrix, which never makes
            an accelerator wait for its host.

    Returns:
        tau (P,), a (P, d1), b (P, d2) with :math:`a^\top (S_{11} + ..)\, a = 1`. Where the sides
        have no correlation at all, tau, a and b are 0.
    """
    k = whiten(l1, unit1, s12, l2, unit2)
    if min(k.shape[-2:]) == 1:
        u, tau, v = _of_vector(k)
    elif on_host:
        u, s, vh = torch.linalg.svd(k, full_matrices=False)
        u, tau, v = u[..., 0], s[..., 0], vh[..., 0, :]
    else:
        u, tau, v = _by_powers(k)
    related = tau > 64 * torch.finfo(tau.dtype).eps
    a = _solve(l1, u[..., None], transposed=True)[..., 0] / unit1[..., None]
    b = _solve(l2, v[..., None], transposed=True)[..., 0] / unit2[..., None]
    keep = related[..., None]
    return (
        torch.where(related, tau.clamp(max=1.0), 0.0),
        torch.where(keep, a, 0.0),
        torch.where(keep, b, 0.0),
    )


def _solve(lower: Tensor, x: Tensor, transposed: bool = False) -> Tensor:
    if lower.shape[-1] == 1:
        return x / lower
    if transposed:
        return torch.linalg.solve_triangular(lower.mT, x, upper=True)
    return torch.linalg.solve_triangular(lower, x, upper=False)


def _of_vector(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular triple of (P, d1, d2) matrices with one row or one column."""
    length = k.flatten(-2).norm(dim=-1, keepdim=True)
    unit = torch.where(length > 0, length, 1.0)
    one, tau = torch.ones_like(unit), length[..., 0]
    if k.shape[-2] == 1:
        return one, tau, k[..., 0, :] / unit
    return k[..., 0] / unit, tau, one


def _by_powers(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First singular triple by repeated squaring of the smaller Gram matrix.

    Each squaring doubles the gap between the two largest eigenvalues, so that a few matrix
    products separate values that power steps would take thousands to tell apart.
    """
    if k.shape[-2] < k.shape[-1]:
        v, tau, u = _by_powers(k.mT)
        return u, tau, v
    tiny = torch.finfo(k.dtype).tiny
    power = k.mT @ k
    for _ in range(SQUARINGS):
        size = power.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=tiny)
        power = power / size[..., None, None]
        power = power @ power
    # every column is the leading vector; the longest has lost least to rounding
    longest = power.norm(dim=-2).argmax(-1)[..., None, None]
    v = power.gather(-1, longest.expand(*power.shape[:-1], 1))[..., 0]
    v = v / v.norm(dim=-1, keepdim=True).clamp(min=tiny)
    image = (k @ v[..., None])[..., 0]
    tau = image.norm(dim=-1)
    return image / tau.clamp(min=tiny)[..., None], tau, v
