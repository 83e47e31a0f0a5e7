"""Davidson correction with a stale shift-inverted preconditioner."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trn_plugin.relation._whitening import normalised

__all__ = ["Correction", "Preconditioner", "shift_inverted"]

GAPS = (1e-4, 1e-3)  # bounds of shift - tau; damps correlations closer to tau
WIDER = (1, 10, 100, 1000)  # factors of the gap, tried while rounding makes a block indefinite
MIN_SINE = 1e-3  # between a batch's variates; below this angle the gradient is negligible


class Preconditioner(NamedTuple):
    r"""Inverse of the shifted equations, t > tau, by block elimination.

    .. math:: t S_{11} x - S_{12}\, y = r_1, \qquad t S_{22}\, y - S_{21} x = r_2

    G is :math:`S_{11}^{-1} S_{12} / t`. The shift t is float64, the matrices float32.
    """

    inverse1: Tensor  # (d1, d1) S11^-1
    elimination: Tensor  # (d1, d2) G
    inverse2: Tensor  # (d2, d2) inverse Schur complement (S22 - S21 G / t)^-1
    shift: Tensor  # 0-d, t


def shift_inverted(
    s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float, tau: float
) -> Preconditioner | None:
    """The preconditioner at a shift slightly above tau; None if it is not finite in float32."""
    (own1, unit1), (own2, unit2) = (normalised(s, shrinkage) for s in (s11, s22))
    cross = s12 / (unit1 * unit2)
    lower, info1 = torch.linalg.cholesky_ex(own1)
    inverse1 = torch.cholesky_inverse(lower)
    elimination = inverse1 @ cross
    explained = cross.mT @ elimination
    gap = min(max((1 - tau**2) / 2, GAPS[0]), GAPS[1])
    for wider in WIDER:
        shift = tau + wider * gap
        lower, info2 = torch.linalg.cholesky_ex(own2.sub(explained, alpha=1 / shift**2))
        if not info2:
            break
    inverse2 = torch.cholesky_inverse(lower)
    found = inverse1 / unit1**2, elimination * (unit2 / unit1 / shift), inverse2 / unit2**2
    # contiguous, as after loading a checkpoint: other strides give other rounding
    found = tuple(f.float().contiguous() for f in found)
    if info1 or info2 or not all(bool(f.isfinite().all()) for f in found):
        return None
    return Preconditioner(*found, torch.tensor(shift, dtype=torch.float64))


class Correction:
    """Davidson correction: applies a stale preconditioner to the current residuals.

    tau and the cross-covariance are current. ``variates`` are p'p, q'q and p'q of the batch's
    canonical variates p and q, divided by their mean square length. ``accuracy`` is the largest
    relative error of the gradient.
    """

    def __init__(
        self, preconditioner: Preconditioner, cross: Tensor, tau: float, variates, accuracy: float
    ) -> None:
        self.inverse1, self.elimination, self.inverse2, shift = preconditioner
        self.shift, self.cross, self.tau = float(shift), cross, tau
        sine = 1 - tau**2
        if variates is not None:
            # the batch can be more correlated than tau, by chance or with start='identity'
            pp, qq, pq = variates
            sine = min(sine, pp - 2 * tau * pq + tau**2 * qq, qq - 2 * tau * pq + tau**2 * pp)
        self.sine = max(sine, MIN_SINE**2) ** 0.5
        self.enough = (accuracy * self.sine) ** 2

    def __call__(self, r1: Tensor, r2: Tensor) -> tuple[Tensor, Tensor, float]:
        r"""Corrections x, y for residuals (d1,), (d2,) float32, and the error without them.

        The error is the relative change of :math:`q - \tau p` in the gradient
        :math:`\partial\tau/\partial X_1 \propto (q - \tau p)\, a^\top`, with p = X1 a and q = X2 b.
        Its length is :math:`\sqrt{1 - \tau^2}` for a batch as correlated as the covariances.
        Variates of the corrections, of lengths o1 and o2 and inner product s, change its square by
        :math:`o_2^2 - 2 \tau s + \tau^2 o_1^2`. The equations give :math:`t o_1^2 - s = x^\top r_1`
        and :math:`t o_2^2 - s = y^\top r_2`, with :math:`s = x^\top S_{12}\, y`.

        An error above ``accuracy`` is a lower bound only; it is infinite where rounding dominates.
        """
        t, tau = self.shift, self.tau
        y = torch.mv(self.inverse2, torch.addmv(r2, self.elimination.mT, r1)).mul_(1 / t)
        x = torch.addmv(torch.mv(self.inverse1, r1), self.elimination, y, beta=1 / t)
        first, second = float(x.dot(r1)), float(y.dot(r2))
        change = max(second + tau**2 * first, first + tau**2 * second) / t
        share = (1 - 2 * tau * t + tau**2) / t
        if not change >= 0:  # positive for positive definite blocks
            return x, y, math.inf
        if share > 0 and change <= self.enough:
            coupled = torch.mv(self.cross.mT, x.to(self.cross.dtype)).dot(y.to(self.cross.dtype))
            change += share * max(float(coupled), 0)
        return x, y, change**0.5 / self.sine
