"""Features as matrices: their checks, and orthonormal bases of their columns."""

import math

import torch
from torch import Tensor

__all__ = ["check_features", "orthonormal_basis", "svd"]


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


def orthonormal_basis(f: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """(N, r) basis Q of the centred columns X, and (d, r) T with X T = Q.

    r is the rank; of rank 0 both are one column of zeros.

    Columns are brought to unit length first, so that the rank does not depend on their units.
    What is constant, or dependent, up to the rounding of float32 (of float64 features, float64)
    has no direction. Raises ValueError for the first value that is not finite.
    """
    finite = torch.isfinite(f)
    if not finite.all():
        row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name}: value at row {row}, column {column} is {f[row, column]}")
    eps = torch.finfo(torch.promote_types(f.dtype, torch.float32)).eps
    values = f.detach().double()
    # a column's own largest value first: squares of 1e-200 vanish, of 1e200 overflow
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

    Where its algorithm does not converge, from the eigenvectors of the symmetric matrix of blocks
    0, R, R', 0, where x = QR: then vectors of values near 0 are not orthonormal.
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
