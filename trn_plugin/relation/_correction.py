"""What two nearly canonical vectors lack, by moments of some steps ago."""

from __future__ import annotations

import numpy as np

from trn_plugin.relation._host import times

__all__ = ["Correction"]

MIN_GAP = 2e-3  # corrections along what is this close to the leading value are damped
MIN_SINE = 1e-3  # between the two variates: where they are closer the gradient is next to nothing


class Correction:
    """Solves the equations for a residual as if the moments were those of the inverses.

    Args:
        inverse1, inverse2 (ndarray): (d1, d1), (d2, d2) of earlier, shrunk moments; (0, d)
            of a side that has all its canonical vectors here.
        leading1, leading2 (ndarray): (p, d1), (p, d2) canonical vectors of them.
        spectrum (ndarray): (p,) canonical values of those.
        tau (float): the largest one now.
        variates (ndarray, optional): (4,) of a small batch, see :meth:`WarmPair._follow`.
    """

    def __init__(
        self, inverse1, inverse2, leading1, leading2, spectrum, tau: float, variates
    ) -> None:
        self.tau, self.floor = tau, max(tau, MIN_GAP)
        sine = 1 - tau**2
        if variates is not None and variates[3] > 0:
            # variates of a few samples may happen to be closer than the moments say
            pp, qq, pq = variates[:3] / variates[3]
            sine = min(sine, pp - 2 * tau * pq + tau**2 * qq, qq - 2 * tau * pq + tau**2 * pp)
        self.sine = max(sine, MIN_SINE**2) ** 0.5
        self.inverses, self.leading = (inverse1, inverse2), (leading1, leading2)
        self.spectrum = spectrum
        distance = tau**2 - spectrum**2
        distance = np.copysign(np.maximum(np.abs(distance), np.float32(MIN_GAP)), distance)
        self.direct, self.crossed = np.float32(tau) / distance, spectrum / distance

    def __call__(self, r1: np.ndarray, r2: np.ndarray):
        r"""Corrections for residuals (d1,), (d2,) float32, and what they change.

        With p = X1 a and q = X2 b it is :math:`\partial\tau/\partial X_1 \propto (q - \tau p)
        a^\top`, and :math:`|q - \tau p| = \sqrt{1 - \tau^2}`: variates that are close make it
        sensitive. Those of the corrections are taken to be as long and as related as the earlier
        moments say.

        Returns:
            (d1,), (d2,), and the relative change of the variates' part of the gradient.
        """
        tau = self.tau
        z1, z2 = times(r1, self.leading[0].T), times(r2, self.leading[1].T)
        near1 = self.direct * z1 + self.crossed * z2
        near2 = self.crossed * z1 + self.direct * z2
        x, rest1 = self._rest(0, r1, z1, near1)
        y, rest2 = self._rest(1, r2, z2, near2)
        ours, theirs = float(near1 @ near1) + rest1, float(near2 @ near2) + rest2
        shared = 2 * tau * float((self.spectrum * near1) @ near2)
        change = max(theirs + tau**2 * ours, ours + tau**2 * theirs) - shared
        # NaN has to stay
        missing = (change if change != change else max(change, 0)) ** 0.5
        return x, y, missing / self.sine

    def _rest(self, side: int, r: np.ndarray, z: np.ndarray, near: np.ndarray):
        """Correction (d,) of a side, and the square length of its part off the leading vectors."""
        leading, inverse, floor = self.leading[side], self.inverses[side], np.float32(self.floor)
        if not len(inverse):
            return times(near, leading), 0.0
        whole = times(r, inverse)
        length = max(float(whole @ r) - float(z @ z), 0) / self.floor**2
        whole /= floor
        whole += times(near - z / floor, leading)
        return whole, length
