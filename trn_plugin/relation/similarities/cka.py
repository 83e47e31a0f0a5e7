"""Linear centred kernel alignment (Kornblith et al., ICML 2019, arXiv:1905.00414)."""

from __future__ import annotations

import torch
from torch import Tensor

from trn_plugin.relation.similarities.base import Similarity

__all__ = ["LinearCKA"]

TINY = 1e-140  # prevents 0 / 0 for a task without variance


class LinearCKA(Similarity):
    r"""Alignment of the Gram matrices of two tasks; unlike tau, weights directions by variance.

    .. math:: \mathrm{CKA} = \frac{\|S_{12}\|_F^2}{\|S_{11}\|_F \|S_{22}\|_F}

    It does not whiten, so the shrinkage has no effect.
    """

    def value(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> Tensor:
        """See :class:`Similarity`."""
        return self.solve(s11, s12, s22, shrinkage)[0]

    def solve(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> tuple[Tensor, ...]:
        r"""The value and its derivatives.

        .. math:: \partial S_{12} = \frac{2 S_{12}}{\|S_{11}\| \|S_{22}\|}, \quad
                  \partial S_{11} = -\mathrm{CKA} \frac{S_{11}}{\|S_{11}\|^2}
        """
        norm1, norm2 = (
            torch.linalg.matrix_norm(s, keepdim=True).clamp_(min=TINY) for s in (s11, s22)
        )
        unit = s12 / norm1 / norm2
        value = (unit * s12).sum((-2, -1), keepdim=True).clamp_(max=1.0)
        return (
            value[..., 0, 0],
            s11 / norm1 * (-value / norm1),
            2 * unit,
            s22 / norm2 * (-value / norm2),
        )
