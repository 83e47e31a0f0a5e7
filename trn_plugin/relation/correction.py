"""What is left of a canonical correlation when chance is taken off."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["corrected_similarity"]

# quantile 0.95 of the Tracy-Widom law of order one
_TRACY_WIDOM_95 = 0.9793


def corrected_similarity(
    tau: Tensor, n: Tensor | float, d1: Tensor | float, d2: Tensor | float
) -> Tensor:
    r"""Estimate of the true largest canonical correlation from that of N samples.

    The largest of a sample is too large, and near 1 where N is not far above d1 + d2. With
    :math:`c_i = d_i / N`, a true correlation r above the point where it can be told from chance,
    :math:`r^2 > \sqrt{c_1 c_2 / ((1-c_1)(1-c_2))}`, shows as

    .. math:: \tau^2 = \frac{\left((1-c_1) r^2 + c_1\right)\left((1-c_2) r^2 + c_2\right)}{r^2}

    (Bao, Hu, Pan and Zhou, Annals of Statistics 47(1), 2019, Theorem 1.8); this is solved for r.
    What independent features exceed in one of twenty samples only (Johnstone, Annals of
    Statistics 36(6), 2008) gives 0, with gradient 0; so does a weaker true correlation.

    Args:
        tau (Tensor): largest sample canonical correlation, in [0, 1], any shape.
        n (Tensor or float): number of samples, or the effective one.
        d1 (Tensor or float): features of one side.
        d2 (Tensor or float): features of the other.

    Returns:
        Tensor: of tau's shape, in [0, 1], differentiable in tau; NaN where n - 1 <= d1 + d2,
        where a sample says nothing.

    Example:
        >>> import torch
        >>> corrected_similarity(torch.tensor([0.3, 0.9]), 1000, 20, 20).round(decimals=2).tolist()
        [0.0, 0.9]
    """
    n, d1, d2 = (torch.as_tensor(x, dtype=torch.float64, device=tau.device) for x in (n, d1, d2))
    c1, c2 = d1 / n, d2 / n
    square = tau.double().square()
    # (1-c1)(1-c2) x^2 + (c1 + c2 - 2 c1 c2 - tau^2) x + c1 c2 = 0, x = r^2
    leading = (1 - c1) * (1 - c2)
    half = (square - (c1 + c2 - 2 * c1 * c2)) / 2
    root = (half.square() - leading * c1 * c2).clamp(min=1e-300).sqrt()
    estimate = ((half + root) / leading).clamp(min=1e-300, max=1.0).sqrt()
    above = square > _chance_limit(n, d1, d2)
    corrected = torch.where(above, estimate, 0.0)
    return torch.where(n - 1 > d1 + d2, corrected, torch.nan).to(tau.dtype)


def _chance_limit(n: Tensor, d1: Tensor, d2: Tensor) -> Tensor:
    """Square of what independent features exceed in one of twenty samples."""
    n = n - 2
    low, high = torch.minimum(d1, d2), torch.maximum(d1, d2)
    gamma, phi = (2 * ((d - 0.5) / n).clamp(0, 1).sqrt().asin() for d in (low, high))
    total = gamma + phi
    mu = 2 * (total / 2).tan().log()
    cube = 16 / (n.square() * total.sin().square() * phi.sin() * gamma.sin())
    return torch.sigmoid(mu + cube.pow(1 / 3) * _TRACY_WIDOM_95)
