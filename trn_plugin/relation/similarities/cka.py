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
        norm1, norm2 = (torch.linalg.matrix_norm(s).clamp(min=TINY) for s in (s11, s22))
        unit = s12 / norm1[:, None, None]
        return ((unit * s12).sum((-2, -1)) / norm2).clamp(max=1.0)
