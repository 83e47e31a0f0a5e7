"""The canonical correlation that chance alone gives, and a correction for it."""

import math

import torch
from torch import Tensor

__all__ = ["chance_similarity", "corrected_similarity"]

_MEAN, _QUANTILE_95 = -1.2065335745820, 0.9793  # of the Tracy-Widom law of order one


def chance_similarity(n: int, d1: int, d2: int) -> float:
    r"""The mean of :func:`task_similarity` over independent features.

    For N independent Gaussian samples the largest squared canonical correlation, theta, follows
    approximately :math:`\mathrm{logit}\,\theta = \mu + \sigma Z`, where Z has the Tracy-Widom law
    of order one (Johnstone, Annals of Statistics 36(6), 2008, Theorem 1). With k = N - 2

    .. math:: \sin^2\tfrac{\gamma}{2} = \frac{\min(d_1, d_2) - 1/2}{k}, \quad
              \sin^2\tfrac{\phi}{2} = \frac{\max(d_1, d_2) - 1/2}{k}, \quad
              \mu = 2 \log\tan\frac{\phi + \gamma}{2}, \quad
              \sigma^3 = \frac{16}{k^2 \sin^2(\phi + \gamma) \sin\phi \sin\gamma}

    NaN for N - 1 <= d1 + d2, where tau is always 1.

    Args:
        n (int): the number of samples N.
        d1, d2 (int): the ranks of the two sides.
    """
    if n - 1 <= d1 + d2:
        return math.nan
    if min(d1, d2) < 1:
        return 0.0
    n, d1, d2 = (torch.tensor(float(x), dtype=torch.float64) for x in (n, d1, d2))
    return float(_square_of_chance(n, d1, d2, _MEAN).sqrt())


def corrected_similarity(
    tau: Tensor | float, n: Tensor | float, d1: Tensor | float, d2: Tensor | float
) -> Tensor:
    r"""Estimate the true largest canonical correlation from that of N samples.

    With :math:`c_i = d_i / N`, a true correlation r above the detection threshold,
    :math:`r^2 > \sqrt{c_1 c_2 / ((1-c_1)(1-c_2))}`, gives

    .. math:: \tau^2 = \frac{\left((1-c_1) r^2 + c_1\right)\left((1-c_2) r^2 + c_2\right)}{r^2}

    (Bao, Hu, Pan and Zhou, Annals of Statistics 47(1), 2019, Theorem 1.8), which is solved for r.
    The estimate is 0 where tau is not significant at 5 % (Johnstone, see
    :func:`chance_similarity`), and NaN where N - 1 <= d1 + d2. It is differentiable in tau.

    Args:
        tau (Tensor | float): the measured correlations, of any shape.
        n (Tensor | float): number of samples N, or effective sample size.
        d1, d2 (Tensor | float): numbers of features.
    """
    tau = torch.as_tensor(tau)
    n, d1, d2 = (torch.as_tensor(x, dtype=torch.float64, device=tau.device) for x in (n, d1, d2))
    defined = n - 1 > d1 + d2
    n = torch.where(defined, n, d1 + d2 + 4)  # keeps values and gradients finite where undefined
    c1, c2 = d1 / n, d2 / n
    square = tau.double().square()
    # (1-c1)(1-c2) x^2 + (c1 + c2 - 2 c1 c2 - tau^2) x + c1 c2 = 0, x = r^2
    leading = (1 - c1) * (1 - c2)
    half = (square - (c1 + c2 - 2 * c1 * c2)) / 2
    root = (half.square() - leading * c1 * c2).clamp(min=1e-300).sqrt()
    estimate = ((half + root) / leading).clamp(min=1e-300, max=1.0).sqrt()
    above = square > _square_of_chance(n, d1, d2, _QUANTILE_95)
    corrected = torch.where(above, estimate, 0.0)
    return torch.where(defined, corrected, torch.nan).to(tau.dtype)


def _square_of_chance(n: Tensor, d1: Tensor, d2: Tensor, tracy_widom: float) -> Tensor:
    """Squared largest correlation of independent features at a quantile of the Tracy-Widom law."""
    n = n - 2
    gamma, phi = (2 * ((d - 0.5) / n).clamp(0, 1).sqrt().asin() for d in (d1, d2))
    total = gamma + phi
    mu = 2 * (total / 2).tan().log()
    cube = 16 / (n.square() * total.sin().square() * phi.sin() * gamma.sin())
    certain = total >= math.pi
    return torch.where(certain, 1.0, torch.sigmoid(mu + cube.pow(1 / 3) * tracy_widom))
