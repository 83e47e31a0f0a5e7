"""The mean squared canonical correlation of moment matrices, and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from trn_plugin.relation._canonical import whiten

__all__ = ["mean_square", "mean_square_gradient"]


def mean_square(
    l1: Tensor, unit1: Tensor, s12: Tensor, l2: Tensor, unit2: Tensor, on_host: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Pillai's trace over the number of canonical correlations, from factors of the moments.

    .. math:: \bar\rho^2 = \frac{1}{k} \mathrm{tr}(S_{11}^{-1} S_{12} S_{22}^{-1} S_{21}),
              \quad k = \min(d_1, d_2)

    Args:
        l1, unit1 (Tensor): (P, d1, d1) and (P,), see ``_canonical.factor``.
        s12 (Tensor): (P, d1, d2) cross moments.
        l2, unit2 (Tensor): of the other side.
        on_host (bool): of no consequence: nothing is decomposed.

    Returns:
        The value (P,) and what :func:`mean_square_gradient` needs: (P, d1, d2), (P, d1, d1) and
        (P, d2, d2), the derivative with respect to S12 and minus twice those with respect to S11
        and S22.
    """
    k = whiten(l1, unit1, s12, l2, unit2)
    smaller = min(k.shape[-2:])
    left = torch.linalg.solve_triangular(l1.mT, k, upper=True) / unit1[:, None, None]
    right = torch.linalg.solve_triangular(l2.mT, k.mT, upper=True) / unit2[:, None, None]
    cross = torch.linalg.solve_triangular(l2.mT, left.mT, upper=True).mT / unit2[:, None, None]
    value = k.square().sum((-2, -1)) / smaller
    scale = 2 / smaller
    return value.clamp(max=1.0), scale * cross, scale * left @ left.mT, scale * right @ right.mT


def mean_square_gradient(
    x1: Tensor, x2: Tensor, cross: Tensor, own1: Tensor, own2: Tensor, shrinkage: float
) -> tuple[Tensor, Tensor]:
    """Gradient with respect to (P, N, d1) and (P, N, d2) features, for moments x'x.

    The shrinkage moves with the moments.
    """
    grads = []
    for own, other, across, inner in ((x1, x2, cross.mT, own1), (x2, x1, cross, own2)):
        ridge = shrinkage * inner.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        grads.append(other @ across - own @ inner - ridge * own)
    return grads[0], grads[1]
