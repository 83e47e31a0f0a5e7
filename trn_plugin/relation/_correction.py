"""What two nearly canonical vectors lack, by moments of some steps ago."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trn_plugin.relation._canonical import normalised
from trn_plugin.relation._host import times

__all__ = ["Correction", "eliminate"]

GAPS = (1e-4, 1e-3)  # bounds of what the shift is above tau: what is closer is damped
WIDER = (1, 10, 100, 1000)  # times that, where rounding is more
MIN_SINE = 1e-3  # between the two variates: where they are closer the gradient is next to nothing


def eliminate(
    s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float, tau: float
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    r"""What solves the two equations, shifted to t a little above tau, by block elimination.

    .. math:: t S_{11} x - S_{12}\, y = r_1, \qquad t S_{22}\, y - S_{21} x = r_2

    Args:
        s11, s12, s22 (Tensor): (d1, d1), (d1, d2), (d2, d2) moments.
        shrinkage (float): epsilon, see :func:`factor`.
        tau (float): their largest canonical correlation.

    Returns:
        :math:`S_{11}^{-1}` (d1, d1), :math:`G = S_{11}^{-1} S_{12} / t` (d1, d2),
        :math:`(S_{22} - S_{21} G / t)^{-1}` (d2, d2), float32, and t, 0-d; None where float32 can
        not hold them.
    """
    (own1, unit1), (own2, unit2) = (normalised(s, shrinkage) for s in (s11, s22))
    cross = s12 / (unit1 * unit2)
    lower, wrong1 = torch.linalg.cholesky_ex(own1)
    inverse1 = torch.cholesky_inverse(lower)
    carry = inverse1 @ cross
    explained = cross.mT @ carry
    gap = min(max((1 - tau**2) / 2, GAPS[0]), GAPS[1])
    for wider in WIDER:
        shift = tau + wider * gap
        lower, wrong2 = torch.linalg.cholesky_ex(own2.sub(explained, alpha=1 / shift**2))
        if not wrong2:
            break
    inverse2 = torch.cholesky_inverse(lower)
    found = inverse1 / unit1**2, carry * (unit2 / unit1 / shift), inverse2 / unit2**2
    found = tuple(f.float() for f in found)
    if wrong1 or wrong2 or not all(bool(f.isfinite().all()) for f in found):
        return None
    return *found, torch.tensor(shift, dtype=torch.float64)


class Correction:
    """Solves the equations for a residual as if the moments were those of some steps ago.

    Args:
        inverse1, carry, inverse2 (ndarray): (d1, d1), (d1, d2), (d2, d2), see :func:`eliminate`.
        shift (ndarray): 0-d, t of them.
        cross (ndarray): (d1, d2) cross moments of now.
        tau (float): the largest canonical correlation now.
        variates (ndarray, optional): (4,) of the batch, see :meth:`WarmPair._follow`.
        accuracy (float): change above which it need not be exact.
    """

    def __init__(
        self, inverse1, carry, inverse2, shift, cross, tau: float, variates, accuracy: float
    ) -> None:
        self.inverse1, self.carry, self.inverse2 = inverse1, carry, inverse2
        self.shift, self.cross, self.tau = float(shift), cross, tau
        sine = 1 - tau**2
        if variates is not None and variates[3] > 0:
            # they may be closer than the moments say: of a few samples by chance, and as long as
            # the moments hold much of the identity, or of less related features
            pp, qq, pq = variates[:3] / variates[3]
            sine = min(sine, pp - 2 * tau * pq + tau**2 * qq, qq - 2 * tau * pq + tau**2 * pp)
        self.sine = max(sine, MIN_SINE**2) ** 0.5
        self.enough = (accuracy * self.sine) ** 2

    def __call__(self, r1: np.ndarray, r2: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        r"""Corrections for residuals (d1,), (d2,) float32, and what they change.

        With p = X1 a and q = X2 b it is :math:`\partial\tau/\partial X_1 \propto (q - \tau p)
        a^\top`, and :math:`|q - \tau p| = \sqrt{1 - \tau^2}`, of a batch as related as the
        moments say: variates that are close make it sensitive. Those of the corrections, of
        lengths o1 and o2 and inner product s, change it by :math:`o_2^2 - 2 \tau s + \tau^2
        o_1^2`, where the equations give :math:`t o_1^2 - s = x^\top r_1`, :math:`t o_2^2 - s =
        y^\top r_2`, and s is :math:`x^\top S_{12}\, y`.

        Returns:
            (d1,), (d2,), and the relative change of the variates' part of the gradient: a lower
            bound of it where that is above the accuracy, infinite where rounding has its way.
        """
        t, tau = self.shift, self.tau
        y = times(r2 + times(r1, self.carry), self.inverse2)
        x = times(r1, self.inverse1) + times(y, self.carry.T)
        x *= np.float32(1 / t)
        y *= np.float32(1 / t)
        first, second = float(x @ r1), float(y @ r2)
        change = max(second + tau**2 * first, first + tau**2 * second) / t
        share = (1 - 2 * tau * t + tau**2) / t
        if not change >= 0:  # as it is by positive definite blocks
            return x, y, np.inf
        if share > 0 and change <= self.enough:
            change += share * max(float(times(x.astype(self.cross.dtype), self.cross) @ y), 0)
        return x, y, change**0.5 / self.sine
