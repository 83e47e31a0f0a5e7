"""Offline task similarity (Eq. 11)."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from trn_plugin.relation._features import check_features, orthonormal_basis, svd

__all__ = ["task_similarity", "task_similarity_matrix"]


def task_similarity(f1: Tensor, f2: Tensor) -> Tensor:
    r"""The largest canonical correlation between the features of two tasks.

    .. math:: \tau = \sigma_{\max}\left(S_{11}^{-1/2} S_{12} S_{22}^{-1/2}\right), \quad
              S_{ij} = \bar F_i^\top \bar F_j

    (Eq. 11; on labels it is the ground truth, Eq. 12). There is no regularisation: each side is
    replaced by an orthonormal basis of its centred columns in float64, which handles
    rank-deficient sides (one-hot labels, constant columns). A side without variance gives 0.

    The rank is determined up to float32 rounding (float64 for float64 features). Half precision
    can make a dependent column, as of a softmax, independent: a spurious, unrelated direction.

    Differentiable by :math:`\partial\tau / \partial F_1 = (q - \tau p)\, a^\top` with the first
    pair of canonical variates :math:`p = \bar F_1 a, \; q = \bar F_2 b, \; |p| = |q| = 1`. If
    several pairs attain the largest correlation, this is one of the subgradients.

    The features (N, d1) and (N, d2) are of the same samples. The result is 0-d, in [0, 1], of
    f1's dtype or float32. It is meaningless for N - 1 <= rank1 + rank2: see
    :func:`chance_similarity`.

    Raises:
        ValueError: shapes that do not fit, or a value that is not finite.
    """
    check_features(f1, f2)
    return _LargestCanonicalCorrelation.apply(f1, f2)


def task_similarity_matrix(features: Sequence[Tensor]) -> Tensor:
    """:func:`task_similarity` of every pair of several tasks (Fig. 3).

    The features (N, d_t) of T tasks are of the same samples. The matrix (T, T) is float64 and
    symmetric, in [0, 1], with 1 on the diagonal and 0 in the row of a task without variance.
    """
    for index, f in enumerate(features):
        check_features(features[0], f, ("features[0]", f"features[{index}]"))
    bases = [orthonormal_basis(f, f"features[{i}]")[0] for i, f in enumerate(features)]
    similarities = torch.diag(torch.stack([q.any() for q in bases]).double())
    for i, j in combinations(range(len(bases)), 2):
        tau = torch.linalg.svdvals(bases[i].T @ bases[j])[0].clamp(max=1.0)
        similarities[i, j] = similarities[j, i] = tau
    return similarities


class _LargestCanonicalCorrelation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f1: Tensor, f2: Tensor) -> Tensor:
        dtype = torch.promote_types(f1.dtype, torch.float32)
        basis1, to_a = orthonormal_basis(f1, "f1")
        basis2, to_b = orthonormal_basis(f2, "f2")
        u, s, vh = svd(basis1.T @ basis2)
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
