"""The mean squared canonical correlation."""

from __future__ import annotations

from torch import Tensor

from trn_plugin.relation._whitening import factors, unwhiten, whiten
from trn_plugin.relation.similarities.base import Similarity

__all__ = ["MeanSquaredCanonicalCorrelation"]


class MeanSquaredCanonicalCorrelation(Similarity):
    r"""Pillai's trace over the number k of canonical correlations.

    .. math:: \bar\rho^2 = \frac{1}{k} \mathrm{tr}(S_{11}^{-1} S_{12} S_{22}^{-1} S_{21}),
              \quad k = \min(d_1, d_2)
    """

    def solve(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> tuple[Tensor, ...]:
        r"""The value and its derivatives, with :math:`A = S_{11}^{-1} S_{12}`.

        .. math:: \partial S_{12} = \tfrac{2}{k} S_{11}^{-1} S_{12} S_{22}^{-1}, \quad
                  \partial S_{11} = -\tfrac{1}{k} A S_{22}^{-1} A^\top

        plus a multiple of the identity, since the shrinkage is relative to the variance.
        """
        l1, l2 = factors(s11, s22, shrinkage)
        k = whiten(l1, s12, l2)
        count = min(k.shape[-2:])
        left, right = unwhiten(l1, k), unwhiten(l2, k.mT)
        cross = unwhiten(l2, left.mT).mT
        value = k.square().sum((-2, -1)) / count
        own = []
        for side in (left, right):
            d = side @ side.mT / -count
            ridge = shrinkage * d.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
            d.diagonal(dim1=-2, dim2=-1).add_(ridge)
            own.append(d)
        return value.clamp(max=1.0), own[0], cross * (2 / count), own[1]
