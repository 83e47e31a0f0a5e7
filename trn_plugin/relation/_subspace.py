"""Canonical correlations within the vectors that an iteration has found so far."""

from __future__ import annotations

import numpy as np

from trn_plugin.relation._host import times

__all__ = ["Side", "Subspace"]

MIN_GAP = 5e-4  # between canonical values that are told apart


class Subspace:
    """Vectors of both sides, and the canonical correlations within them."""

    def __init__(self, first: Side, second: Side) -> None:
        self.sides = first, second
        units = np.linalg.inv(np.linalg.cholesky(np.stack([first.metric(), second.metric()])))
        for side, unit in zip(self.sides, units, strict=True):
            side.combine(unit)
        n = first.count
        self.cross = np.empty((len(first.space), len(second.space)))
        self.cross[:n, :n] = times(first.across, second.vectors.T)

    @property
    def whitened(self) -> np.ndarray:
        """(k, k) cross moments of the vectors, which are orthonormal."""
        n = self.sides[0].count
        return self.cross[:n, :n]

    def leading(self) -> tuple[float, np.ndarray, np.ndarray]:
        """tau, and the combinations (k,) of each side's vectors that have it."""
        k = self.whitened
        self.solved = values, vectors = np.linalg.eigh(k.T @ k)
        tau = max(float(values[-1]), 0.0) ** 0.5
        v = vectors[:, -1]
        return tau, (k @ v) / tau, v

    def residuals(self, tau: float, u: np.ndarray, v: np.ndarray) -> list[np.ndarray]:
        """What the two equations lack, (d1,) and (d2,) float32."""
        first, second = self.sides
        ours, theirs = u @ first.images, v @ second.images
        d1 = first.width
        lacks = theirs[:d1] - tau * ours[:d1], ours[d1:] - tau * theirs[d1:]
        return [r.astype(np.float32) for r in lacks]

    def turn(self, tau: float, u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray):
        """What corrections (d1,) and (d2,) of the leading pair would change, to second order.

        They couple it to the other pairs in the space, by so much the more as these are near.

        Returns:
            The square of what the variates' part of the gradient changes by the other pairs, in
            the units of :class:`Correction`, and the larger relative change of the two vectors.
        """
        (first, second), k = self.sides, self.whitened
        values, vectors = self.solved
        near = slice(int(np.searchsorted(values, tau**2 / 4)), -1)
        values, w = np.sqrt(values[near]), vectors[:, near]
        z = k @ w / values
        ours, theirs = first.along @ x, second.along @ y  # their part in the space
        coupling = (first.across @ y - k @ theirs) @ z + (second.across @ x - ours @ k) @ w
        share = coupling / (2 * np.maximum(tau - values, MIN_GAP))
        change = float(share**2 @ (1 + tau**2 - 2 * tau * values))
        ours, theirs = z @ share - ours, w @ share - theirs
        return change, max(first.turn(u, x, ours), second.turn(v, y, theirs))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take in a vector of each side, (d1,) and (d2,), less its part in the space."""
        (first, second), n = self.sides, self.sides[0].count
        x, y = first.rest(x), second.rest(y)
        # the cross moments twice in a row, while they are in the processor's cache
        first.add(x, times(x, first.s), times(x, first.cross))
        second.add(y, times(y, second.cross), times(y, second.s))
        self.cross[n, : n + 1] = second.vectors @ first.across[n]
        self.cross[:n, n] = first.across[:n] @ second.vectors[n]

    def keep(self, *outs: tuple[np.ndarray, np.ndarray]) -> None:
        """Write each side's leading canonical vectors, and what the moments make of them."""
        n = len(outs[0][0])
        values, vectors = self.solved
        if values[-n] > 1e-10 * values[-1]:
            v = np.ascontiguousarray(vectors[:, : -n - 1 : -1])
            u = self.whitened @ v / np.sqrt(values[: -n - 1 : -1])
        else:  # squares of small values are lost to rounding
            u, _, vh = np.linalg.svd(self.whitened)
            u, v = u[:, :n], vh[:n].T
        for side, combinations, out in zip(self.sides, (u.T, v.T), outs, strict=True):
            side.write(combinations, *out)


class Side:
    """Vectors of one side, orthonormal in its shrunk moments, and what the moments make of them.

    Args:
        s (ndarray): (d, d) moments of this side.
        cross (ndarray): (d, other) moments with the other.
        shrinkage (float): epsilon.
        vectors (ndarray): (k, d) float64.
        images (ndarray): (k, all) what the joint moments (not shrunk) make of them, v S and v C,
            in the order of the tasks; float64.
        more (int): vectors that may come to them.
        start (int): of this side among the columns of the joint moments.
    """

    def __init__(self, s, cross, shrinkage: float, vectors, images, more: int, start: int) -> None:
        self.s, self.cross = s, cross
        self.width = d = len(s)
        self._along = slice(d + start, 2 * d + start)
        self._across = slice(d, d + start) if start else slice(2 * d, None)
        self.ridge = shrinkage * float(s.diagonal().mean(dtype=np.float64))
        self.count = len(vectors)
        self.space = np.empty((self.count + more, d + images.shape[1]))
        self.vectors[:] = vectors
        self.images[:] = images
        self.along[:] += self.ridge * vectors

    @property
    def vectors(self) -> np.ndarray:
        return self.space[: self.count, : self.width]

    @property
    def images(self) -> np.ndarray:
        """The vectors times the shrunk moments, and the cross moments, in the tasks' order."""
        return self.space[: self.count, self.width :]

    @property
    def along(self) -> np.ndarray:
        return self.space[: self.count, self._along]

    @property
    def across(self) -> np.ndarray:
        return self.space[: self.count, self._across]

    def metric(self) -> np.ndarray:
        """(k, k) inner products of the vectors in the shrunk moments."""
        return times(self.along, self.vectors.T)

    def combine(self, combinations: np.ndarray) -> None:
        """Put combinations of the vectors in their place."""
        self.space[: self.count] = times(combinations, self.space[: self.count])

    def turn(self, combination: np.ndarray, change: np.ndarray, within: np.ndarray) -> float:
        """Length of a change, and a combination, over that of the combination that changes."""
        vector, change = combination @ self.vectors, change + within @ self.vectors
        return float(np.sqrt(change @ change / (vector @ vector)))

    def rest(self, x: np.ndarray) -> np.ndarray:
        """A vector (d,) less its part in the space.

        To be multiplied by the moments: a difference of products would lose what they make of
        directions without variance, where a vector is mostly in the space.
        """
        return (x - (self.along @ x) @ self.vectors).astype(self.s.dtype, copy=False)

    def add(self, *products: np.ndarray) -> None:
        """Take in a vector (d,) and its products, less its part in the space."""
        d, n, new = self.width, self.count, self.space[self.count]
        np.concatenate(products, out=new)
        along = new[self._along]
        along += self.ridge * new[:d]
        new -= (self.along @ new[:d]) @ self.space[:n]
        new *= 1 / np.sqrt(new[:d] @ along)
        self.count = n + 1

    def write(self, combinations: np.ndarray, vectors: np.ndarray, images: np.ndarray) -> None:
        """Write combinations of the vectors, as the arguments of those names."""
        new = times(combinations, self.space[: self.count])
        new[:, self._along] -= self.ridge * new[:, : self.width]
        vectors[:], images[:] = new[:, : self.width], new[:, self.width :]
