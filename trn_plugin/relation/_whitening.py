"""Shrinkage and whitening.

Whitening by the Cholesky factor, :math:`S + \\epsilon v I = L L^\\top`, gives the same canonical
vectors as the paper's inverse square roots (Eq. 15).
"""

import torch
from torch import Tensor

__all__ = ["factors", "normalised", "unwhiten", "whiten"]


def normalised(s: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    r"""Shrunk covariances of unit mean variance, :math:`S / v + \epsilon I`, and :math:`\sqrt v`.

    :math:`v = \mathrm{tr}(S) / d`; epsilon prevents an infinite inverse of a singular covariance.
    """
    variance = s.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_(min=torch.finfo(s.dtype).tiny)
    scaled = s / variance[..., None, None]
    scaled.diagonal(dim1=-2, dim2=-1).add_(shrinkage)
    return scaled, variance.sqrt_()


def factors(s11: Tensor, s22: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Cholesky factors (P, d1, d1) and (P, d2, d2) of the shrunk covariances."""
    if s11.shape == s22.shape:
        return _factor(torch.cat([s11, s22]), shrinkage).split(len(s11))
    return _factor(s11, shrinkage), _factor(s22, shrinkage)


def whiten(l1: Tensor, s12: Tensor, l2: Tensor) -> Tensor:
    r"""Cross-covariances of whitened features, :math:`L_1^{-1} S_{12} L_2^{-\top}`."""
    k = torch.linalg.solve_triangular(l1, s12, upper=False)
    return torch.linalg.solve_triangular(l2, k.mT, upper=False).mT


def unwhiten(lower: Tensor, x: Tensor) -> Tensor:
    r"""Map directions of whitened features to the features, :math:`L^{-\top} x`."""
    return torch.linalg.solve_triangular(lower.mT, x, upper=True)


def _factor(s: Tensor, shrinkage: float) -> Tensor:
    scaled, unit = normalised(s, shrinkage)
    return torch.linalg.cholesky_ex(scaled)[0].mul_(unit[..., None, None])
