"""Check feature matrices; orthonormal bases of their columns."""

import math

import torch
from torch import Tensor

__all__ = ["check_features", "orthonormal_basis", "svd"]


def check_features(f1: Tensor, f2: Tensor, names: tuple[str, str] = ("f1", "f2")) -> None:
    """Refuse anything but two floating-point matrices (N, d1) and (N, d2)."""
    for name, f in zip(names, (f1, f2), strict=True):
        if f.ndim != 2 or f.shape[1] == 0:
            raise ValueError(f"{name}: expected features of shape (N, d), found {tuple(f.shape)}")
        if not f.is_floating_point():
            raise ValueError(f"{name}: expected floating-point features, found {f.dtype}")
    if len(f1) != len(f2):
        raise ValueError(
            f"{names[0]} has {len(f1)} rows and {names[1]} has {len(f2)}: "
            "expected the same samples in both"
        )


def orthonormal_basis(f: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Orthonormal basis Q (N, r) of the centred columns X, and T (d, r) with X T = Q.

    r is the rank of X; for rank 0 both are one column of zeros. Columns are scaled to unit length
    first, so the rank does not depend on their units. Columns that are constant or linearly
    dependent up to float32 rounding (float64 for float64 features) add no direction.
    """
    finite = torch.isfinite(f)
    if not finite.all():
        row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name}: value at row {row}, column {column} is {f[row, column]}")
    eps = torch.finfo(torch.promote_types(f.dtype, torch.float32)).eps
    values = f.detach().double()
    # divide by the largest value first: squares of 1e-200 underflow, of 1e200 overflow
    unit = values.abs().amax(0).clamp(min=1e-300) if len(values) else 1.0
    values = values / unit
    centred = values - values.mean(0)
    norm = centred.norm(dim=0)
    varies = norm > 4 * eps * values.norm(dim=0)
    scale = torch.where(varies, 1 / norm, 0.0)
    if not varies.any():
        return values.new_zeros(len(values), 1), values.new_zeros(values.shape[1], 1)
    u, s, vh = svd(centred * scale)
    rank = int((s > 4 * eps * math.sqrt(max(f.shape)) * s[0]).sum())
    return u[:, :rank], (scale / unit)[:, None] * vh[:rank].T / s[:rank]


def svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition.

    Where LAPACK's algorithm does not converge, falls back to the eigenvectors of the symmetric
    matrix [[0, R], [R', 0]] with x = QR. Singular vectors of values near 0 are then not
    orthonormal.
    """
    try:
        return torch.linalg.svd(x, full_matrices=False)
    except torch.linalg.LinAlgError:
        q, r = torch.linalg.qr(x)
    n, d = r.shape
    symmetric = x.new_zeros(n + d, n + d)
    symmetric[n:, :n] = r.mT
    values, vectors = (t[..., -n:].flip(-1) for t in torch.linalg.eigh(symmetric))
    vectors = math.sqrt(2) * vectors
    return q @ vectors[:n], values.clamp(min=0), vectors[n:].mT
