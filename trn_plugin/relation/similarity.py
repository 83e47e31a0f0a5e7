"""Task similarity of a whole sample (Eq. 11, Eq. 12), offline."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["check_features", "task_similarity", "task_similarity_matrix"]


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


def task_similarity(f1: Tensor, f2: Tensor) -> Tensor:
    r"""The largest canonical correlation between the features of two tasks.

    .. math:: \tau = \sigma_{\max}\left(S_{11}^{-1/2} S_{12} S_{22}^{-1/2}\right), \quad
              S_{ij} = \bar F_i^\top \bar F_j

    (Eq. 11; on labels it is the ground truth, Eq. 12). No regularisation: each side is replaced
    by an orthonormal basis of its centred columns, in float64, so that rank-deficient sides
    (one-hot labels, softmax outputs, constant columns) are right. A side without variance gives
    0. Differentiable, by the closed form

    .. math:: \partial\tau / \partial F_1 = (q - \tau p)\, a^\top, \quad
              p = \bar F_1 a, \; q = \bar F_2 b, \; |p| = |q| = 1

    where p and q are the first pair of canonical variates; where the largest correlation is
    attained more than once, it is one of the subgradients.

    Args:
        f1 (Tensor): (N, d1) features, floating point.
        f2 (Tensor): (N, d2) features of the same samples; d1 and d2 are free.

    Returns:
        Tensor: 0-d, in [0, 1], of f1's dtype (float32 at least). With N - 1 <= rank1 + rank2 it
        says nothing: compare :func:`trn_plugin.relation.chance_similarity`.

    Raises:
        ValueError: shapes that do not fit, or a value that is not finite.

    Example:
        >>> import torch
        >>> x = torch.randn(1000, 3)
        >>> bool(task_similarity(x, x @ torch.randn(3, 3) + 1) > 0.999)
        True
    """
    check_features(f1, f2)
    _check_finite(f1, "f1")
    _check_finite(f2, "f2")
    return _LargestCanonicalCorrelation.apply(f1, f2)


def task_similarity_matrix(features: Sequence[Tensor]) -> Tensor:
    """:func:`task_similarity` of every pair of several tasks (Fig. 3).

    Each task is whitened once, and all pairs are blocks of one matrix product; among tasks of one
    feature each it is the matrix of absolute correlations, without any decomposition.

    Args:
        features (Sequence[Tensor]): (N, d_t) by task, of the same samples; d_t are free.

    Returns:
        Tensor: (T, T) float64, symmetric, in [0, 1]; 1 on the diagonal, 0 in the row of a task
        without variance.

    Raises:
        ValueError: shapes that do not fit, or a value that is not finite.

    Example:
        >>> import torch
        >>> x = torch.randn(100, 3)
        >>> task_similarity_matrix([x, x[:, :1], -x]).round(decimals=6).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    for index, f in enumerate(features):
        check_features(features[0], f, ("features[0]", f"features[{index}]"))
        _check_finite(f, f"features[{index}]")
    bases = [_orthonormal_basis(f)[0].T for f in features]  # rows: a scalar task's is contiguous
    joint = torch.cat(bases)
    products = joint @ joint.T
    starts = [0]
    for basis in bases:
        starts.append(starts[-1] + len(basis))
    by_shape: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, first in enumerate(bases):
        for j in range(i + 1, len(bases)):
            by_shape.setdefault((len(first), len(bases[j])), []).append((i, j))
    similarities = torch.diag(products.new_tensor([float(len(basis) > 0) for basis in bases]))
    for (d1, d2), pairs in by_shape.items():
        if min(d1, d2) == 0:
            continue
        i, j = torch.tensor(pairs).T
        rows = torch.tensor(starts)[i][:, None, None] + torch.arange(d1)[:, None]
        columns = torch.tensor(starts)[j][:, None, None] + torch.arange(d2)
        blocks = products[rows.to(products.device), columns.to(products.device)]
        largest = blocks.abs().flatten() if d1 == d2 == 1 else torch.linalg.svdvals(blocks)[:, 0]
        similarities[i, j] = similarities[j, i] = largest.clamp(max=1.0)
    return similarities


def _check_finite(f: Tensor, name: str) -> None:
    if bool(torch.isfinite(f.detach().sum())):  # one pass; a sum that overflows is looked at below
        return
    finite = torch.isfinite(f)
    if not bool(finite.all()):
        row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name}: value at row {row}, column {column} is {f[row, column]}")


class _LargestCanonicalCorrelation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f1: Tensor, f2: Tensor) -> Tensor:
        dtype = torch.promote_types(f1.dtype, torch.float32)
        basis1, to_a = _orthonormal_basis(f1)
        basis2, to_b = _orthonormal_basis(f2)
        if basis1.shape[1] == 0 or basis2.shape[1] == 0:
            ctx.save_for_backward(*(f.new_zeros(f.shape) for f in (f1, f2)))
            return f1.new_zeros((), dtype=dtype)
        u, s, vh = torch.linalg.svd(basis1.T @ basis2, full_matrices=False)
        tau = s[0].clamp(max=1.0)
        p, q = basis1 @ u[:, 0], basis2 @ vh[0]
        ctx.save_for_backward(
            torch.outer(q - tau * p, to_a @ u[:, 0]).to(f1.dtype),
            torch.outer(p - tau * q, to_b @ vh[0]).to(f2.dtype),
        )
        return tau.to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(grad.to(g.dtype) * g for g in ctx.saved_tensors)


def _orthonormal_basis(f: Tensor) -> tuple[Tensor, Tensor]:
    """(N, r) basis Q of the centred columns X, and (d, r) T with X T = Q; r is the rank.

    Columns are brought to unit length first, so that the rank does not depend on their units.
    What is constant, or dependent, up to the rounding of the given dtype has no direction.
    """
    eps = torch.finfo(f.dtype).eps
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
    u, s, vh = torch.linalg.svd(centred * scale, full_matrices=False)
    rank = int((s > 4 * eps * math.sqrt(max(f.shape)) * s[0]).sum())
    return u[:, :rank], (scale / unit)[:, None] * vh[:rank].T / s[:rank]
