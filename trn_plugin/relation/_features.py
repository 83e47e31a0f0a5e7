"""Features as matrices: their checks, and orthonormal bases of their columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["check_features", "check_finite", "orthonormal_basis", "svd"]


def check_features(f1: Tensor, f2: Tensor, names: tuple[str, str] = ("f1", "f2")) -> None:
    """Refuse what is not a pair (N, d1), (N, d2) of floating-point matrices.

    Raises:
        ValueError: names the matrix, and the shape or type that was found.
    """
    for name, f in zip(names, (f1, f2), strict=True):
        if f.ndim != 2 or f.shape[1] == 0:
            raise ValueError(f"{name}: expected features of shape (N, d), got {tuple(f.shape)}")
        if not f.is_floating_point():
            raise ValueError(f"{name}: expected floating-point features, got {f.dtype}")
    if len(f1) != len(f2):
        raise ValueError(
            f"{names[0]} has {len(f1)} rows and {names[1]} has {len(f2)}: "
            "expected the same samples in both"
        )


def check_finite(f: Tensor, name: str) -> None:
    """ValueError that names the first value of a matrix that is not finite."""
    if bool(torch.isfinite(f.detach().sum())):  # one pass; a sum that overflows is looked at below
        return
    finite = torch.isfinite(f)
    if not bool(finite.all()):
        row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name}: value at row {row}, column {column} is {f[row, column]}")


def orthonormal_basis(f: Tensor) -> tuple[Tensor, Tensor]:
    """(N, r) basis Q of the centred columns X, and (d, r) T with X T = Q; r is the rank.

    Columns are brought to unit length first, so that the rank does not depend on their units.
    What is constant, or dependent, up to the rounding of float32 (of float64 features, float64)
    has no direction.
    """
    eps = torch.finfo(torch.promote_types(f.dtype, torch.float32)).eps
    values = f.detach().double()
    # a column's own largest value first: squares of 1e-200 vanish, of 1e200 overflow
    size = values.abs().amax(0) if len(values) else values.new_zeros(values.shape[1])
    unit = torch.where(size > 0, size, torch.ones_like(size))
    values = values / unit
    centred = values - values.mean(0) if len(values) else values
    norm = centred.norm(dim=0)
    varies = norm > 4 * eps * values.norm(dim=0)
    scale = torch.where(varies, 1 / torch.where(varies, norm, torch.ones_like(norm)), 0.0)
    if not bool(varies.any()):
        return values.new_zeros(len(values), 0), values.new_zeros(values.shape[1], 0)
    if values.shape[1] == 1:
        return centred * scale, (scale / unit)[:, None]
    u, s, vh = svd(centred * scale)
    rank = int((s > 4 * eps * math.sqrt(max(f.shape)) * s[0]).sum())
    return u[:, :rank], (scale / unit)[:, None] * vh[:rank].T / s[:rank]


def svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition; by another algorithm where the first does not converge."""
    try:
        return torch.linalg.svd(x, full_matrices=False)
    except torch.linalg.LinAlgError:
        if x.is_cuda:
            return torch.linalg.svd(x, full_matrices=False, driver="gesvd")
        return _svd_by_eigh(x)


def _svd_by_eigh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the eigenvectors of the symmetric matrix of blocks 0, R, R', 0, where x = QR.

    Singular vectors of values near 0 are not orthonormal.
    """
    if len(x) < x.shape[1]:
        v, s, uh = _svd_by_eigh(x.mT)
        return uh.mT, s, v.mT
    q, r = torch.linalg.qr(x)
    n = len(r)
    symmetric = x.new_zeros(2 * n, 2 * n)
    symmetric[:n, n:], symmetric[n:, :n] = r, r.mT
    values, vectors = torch.linalg.eigh(symmetric)
    vectors = math.sqrt(2) * vectors[:, n:].flip(1)
    return q @ vectors[:n], values[n:].flip(0).clamp(min=0), vectors[n:].mT
