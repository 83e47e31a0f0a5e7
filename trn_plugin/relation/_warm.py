"""The leading canonical vectors of moments that change slowly, from where they were a step ago.

A block Davidson iteration for the pair of equations :math:`S_{12} b = \\tau S_{11} a`,
:math:`S_{21} a = \\tau S_{22} b`. The correction of a residual takes the canonical vectors of an
earlier, exact solution for those of now (Davidson, J. Comput. Phys. 17, 1975): in that basis the
equations are nearly diagonal. What the moments make of the vectors carried from step to step
follows the moments' own update, so that a step reads the wide matrices only for what is new. In
NumPy, whose products of a matrix and a vector or two, and whose small decompositions, take a
third of PyTorch's time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from trn_plugin.relation._canonical import factor, whiten
from trn_plugin.relation._ranks import sum_over_ranks, world_size

__all__ = ["WarmPair"]

BLOCK = 8  # vectors carried from step to step: values that nearly touch are told apart by them
MIN_GAP = 2e-3  # corrections along what is this close to the leading value are damped
MIN_SINE = 1e-3  # between the two variates: where they are closer the gradient is next to nothing
USUAL = 2  # iterations with a fresh basis
WORTH = 0.2  # iterations that an exact solution is worth, for each feature


class WarmPair(nn.Module):
    """Largest canonical correlation of one pair of wide tasks, step after step.

    Each answer is checked: the next correction of the two canonical vectors is what they lack, to
    first order, and what that would change in the gradient (see :func:`_missing`) has to be less
    than ``accuracy`` of it. Where the iterations do not get there, the pair is solved exactly, and
    its canonical vectors become the basis of the next corrections; so too when the iterations
    that the old basis has cost add up to the cost of a new one.
    """

    STATE = ("basis1", "basis2", "spectrum", "rows1", "rows2", "spent")

    def __init__(self) -> None:
        super().__init__()
        for name in self.STATE:
            self.register_buffer(name, None)

    def forget(self) -> None:
        """Take the exact route at the next step."""
        for name in self.STATE:
            setattr(self, name, None)

    @staticmethod
    def suits(d1: int, d2: int) -> bool:
        """Whether tasks are wide enough for the iterations to pay."""
        return min(d1, d2) >= 96

    def solve(
        self,
        s11: Tensor,
        s12: Tensor,
        s22: Tensor,
        shrinkage: float,
        batch: tuple[Tensor, Tensor],
        momentum: float,
        gain: float,
        accuracy: float,
        iterations: int,
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Canonical pair of moments on a CPU.

        Args:
            s11, s12, s22 (Tensor): (d1, d1), (d1, d2), (d2, d2) moments.
            shrinkage (float): epsilon, see :func:`factor`.
            batch (tuple[Tensor, Tensor]): (N, d1), (N, d2) centred features of this process that
                the moments have taken in since the last call.
            momentum (float): m of that update.
            gain (float): 1 - m, or 0 where the batch was left out.
            accuracy (float): relative error allowed in the gradient.
            iterations (int): corrections before the exact route is taken.

        Returns:
            tau (0-d), a (d1,), b (d2,), float64, and whether the exact route was taken.
        """
        moments = s11, s12, s22
        if self.rows1 is not None:
            probe = self._follow(batch, momentum, gain)
            if int(self.spent) < WORTH * min(s12.shape):
                found = self._iterate(moments, shrinkage, probe, accuracy, iterations)
                if found is not None:
                    return *found, False
        return *self._solve_exactly(moments, shrinkage, accuracy), True

    def _follow(self, batch: tuple[Tensor, Tensor], momentum: float, gain: float):
        """Update the carried products as the moments were.

        Returns:
            (1, d1), (1, d2) arrays, a combination of this batch's samples: what they alone have in
            common is looked for too.
        """
        n = len(batch[0])
        signs = np.where(np.arange(n) % 2, -1, 1)[None]
        own, other = (f.numpy() for f in batch)
        products = []
        for rows, (x, y) in ((self.rows1, (own, other)), (self.rows2, (other, own))):
            weights = np.empty((len(rows) + 1, n), x.dtype)
            weights[:-1] = rows.numpy()[:, : x.shape[1]].astype(x.dtype) @ x.T
            weights[:-1] *= gain
            weights[-1] = signs
            products += [weights @ x, weights @ y]
        if world_size() > 1:
            # of all ranks' samples, or their warm starts would drift apart
            widths = [p.shape[1] for p in products]
            total = sum_over_ranks(torch.from_numpy(np.concatenate(products, 1, dtype=np.float64)))
            products = [p.numpy() for p in total.split(widths, 1)]
        probes = [products[0][-1:], products[2][-1:]]
        if gain:
            for rows, (x, y) in ((self.rows1, products[:2]), (self.rows2, products[2:])):
                carried, d = rows.numpy(), x.shape[1]
                carried[:, d:] *= momentum
                carried[:, d : 2 * d] += x[:-1]
                carried[:, 2 * d :] += y[:-1]
        return [p.astype(np.float32) for p in probes]

    def _solve_exactly(self, moments: tuple[Tensor, ...], shrinkage: float, accuracy: float):
        s11, s12, s22 = (s.double() for s in moments)
        l1, unit1 = factor(s11, shrinkage)
        l2, unit2 = factor(s22, shrinkage)
        k = whiten(l1, unit1, s12, l2, unit2)
        for dtype in (torch.float32, torch.float64):
            # float32 will do for a basis, and its iterations give what the promised accuracy asks
            u, s, vh = torch.linalg.svd(k.to(dtype))
            if not bool(s[0] > 64 * torch.finfo(s.dtype).eps):
                self.forget()
                continue
            first = torch.linalg.solve_triangular(l1.mT.to(dtype), u, upper=True).mT / unit1
            second = torch.linalg.solve_triangular(l2.mT.to(dtype), vh.mT, upper=True).mT / unit2
            self.basis1, self.basis2 = first.float().contiguous(), second.float().contiguous()
            self.spectrum, self.spent = s.float(), torch.zeros((), dtype=torch.int64)
            a, b = first[:BLOCK].double(), second[:BLOCK].double()
            self.rows1 = torch.cat([a, a @ s11, a @ s12], 1)
            self.rows2 = torch.cat([b, b @ s22, b @ s12.mT], 1)
            if dtype == torch.float64:
                return s[0].clamp(max=1.0), first[0], second[0]
            found = self._iterate(moments, shrinkage, None, accuracy, 2 * USUAL)
            if found is not None:
                return found
        return k.new_zeros(()), torch.zeros_like(s11[0]), torch.zeros_like(s22[0])

    def _iterate(self, moments, shrinkage: float, probe, accuracy: float, iterations: int):
        """tau, a, b; None where they are not accurate enough."""
        s11, s12, s22 = (s.numpy() for s in moments)
        most = len(self.rows1) + iterations + (probe is not None)
        try:
            with np.errstate(all="ignore"):
                sides = (
                    _Side(s11, s12, shrinkage, self.rows1, self.basis1, most),
                    _Side(s22, s12.T, shrinkage, self.rows2, self.basis2, most),
                )
                found = self._improve(sides, probe, accuracy, iterations)
        except np.linalg.LinAlgError:  # dependent rows, or values that are not finite
            return None
        if found is None:
            return None
        tau, iteration, (first, second) = found
        self.rows1, self.rows2 = torch.from_numpy(first), torch.from_numpy(second)
        self.spent += max(iteration - USUAL, 0)
        vectors = self.rows1[0, : len(s11)], self.rows2[0, : len(s22)]
        return torch.tensor(min(tau, 1.0), dtype=torch.float64), *vectors

    def _improve(self, sides: tuple[_Side, _Side], probe, accuracy: float, iterations: int):
        """tau, the iterations it took, and both sides' rows."""
        first, second = sides
        spectrum = self.spectrum.numpy()
        for iteration in range(iterations + 1):
            u, values, vh = np.linalg.svd(first.across @ second.vectors.T)
            u, tau = u.T, float(values[0])
            r1 = (vh[:1] @ second.across - tau * (u[:1] @ first.along)).astype(np.float32)
            r2 = (u[:1] @ first.across - tau * (vh[:1] @ second.along)).astype(np.float32)
            looks = iteration == 0 and probe is not None and all(p.any() for p in probe)
            if looks:
                r1, r2 = np.concatenate([r1, probe[0]]), np.concatenate([r2, probe[1]])
            r1, r2 = r1 @ first.basis.T, r2 @ second.basis.T
            r1[0], r2[0] = _corrections(r1[0], r2[0], spectrum, tau)
            missing = _missing(r1[0], r2[0], spectrum, tau)
            r1, r2 = r1 @ first.basis, r2 @ second.basis
            missing += max(first.turn(u[0], r1[0]), second.turn(vh[0], r2[0]))
            if iteration > 0 and missing <= accuracy:
                return tau, iteration, (first.rows(u[:BLOCK]), second.rows(vh[:BLOCK]))
            if iteration == iterations or not missing < np.inf:
                return None
            first.add(r1)
            second.add(r2)
        return None

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for name in self.STATE:
            saved = state_dict.get(prefix + name)
            setattr(self, name, None if saved is None else torch.empty_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _corrections(r1: np.ndarray, r2: np.ndarray, spectrum: np.ndarray, tau: float):
    """Solve the equations for the residuals (d1,), (d2,) as if the basis' were today's."""
    n = len(spectrum)
    distance = tau**2 - spectrum**2
    distance = np.copysign(np.maximum(np.abs(distance), np.float32(MIN_GAP)), distance)
    x, y = (r / max(tau, MIN_GAP) for r in (r1, r2))
    x[:n] = (tau * r1[:n] + spectrum * r2[:n]) / distance
    y[:n] = (spectrum * r1[:n] + tau * r2[:n]) / distance
    return x, y


def _missing(x: np.ndarray, y: np.ndarray, spectrum: np.ndarray, tau: float) -> float:
    r"""Relative change of the variates' part of the gradient by corrections (d1,) and (d2,).

    With p = X1 a and q = X2 b it is :math:`\partial\tau/\partial X_1 \propto (q - \tau p) a^\top`,
    and :math:`|q - \tau p| = \sqrt{1 - \tau^2}`: variates that are close make it sensitive. Those
    of the corrections are taken to be as long and as related as the moments say.
    """
    n = len(spectrum)
    ours, theirs = float(x @ x), float(y @ y)
    shared = 2 * tau * float((spectrum * x[:n]) @ y[:n])
    change = max(theirs + tau**2 * ours, ours + tau**2 * theirs) - shared
    # NaN has to stay
    return (change if change != change else max(change, 0)) ** 0.5 / max(
        1 - tau**2, MIN_SINE**2
    ) ** 0.5


class _Side:
    """Vectors of one side, orthonormal in its shrunk moments, and what the moments make of them.

    Args:
        s (ndarray): (d, d) moments of this side.
        cross (ndarray): (d, other) moments with the other.
        shrinkage (float): epsilon.
        rows (Tensor): (k, 2d + other), vectors v with v S (not shrunk) and v C, float64.
        basis (Tensor): (d, d) canonical vectors of an earlier solution, float32.
        most (int): vectors there may come to be.
    """

    def __init__(self, s, cross, shrinkage: float, rows: Tensor, basis: Tensor, most: int) -> None:
        self.s, self.cross, self.basis = s, cross, basis.numpy()
        self.ridge = shrinkage * float(s.diagonal().mean(dtype=np.float64))
        self.space = np.empty((most, rows.shape[1]))
        self.count = 0
        self._take(rows.numpy().copy())

    @property
    def vectors(self) -> np.ndarray:
        return self.space[: self.count, : len(self.s)]

    @property
    def along(self) -> np.ndarray:
        """The vectors times the shrunk moments."""
        return self.space[: self.count, len(self.s) : 2 * len(self.s)]

    @property
    def across(self) -> np.ndarray:
        """The vectors times the cross moments."""
        return self.space[: self.count, 2 * len(self.s) :]

    def turn(self, combination: np.ndarray, change: np.ndarray) -> float:
        """Length of a change over that of the combination of the vectors which it is to change."""
        vector = combination @ self.vectors
        return float(np.sqrt(change @ change / (vector @ vector)))

    def add(self, vectors: np.ndarray) -> None:
        """Take in vectors, less their part in the space."""
        vectors = vectors.astype(self.s.dtype, copy=False)
        products = vectors, vectors @ self.s, vectors @ self.cross
        self._take(np.concatenate(products, 1, dtype=np.float64))

    def rows(self, combinations: np.ndarray) -> np.ndarray:
        """Combinations of the vectors, as the argument ``rows``."""
        rows = combinations @ self.space[: self.count]
        d = len(self.s)
        rows[:, d : 2 * d] -= self.ridge * rows[:, :d]
        return rows

    def _take(self, new: np.ndarray) -> None:
        d, end = len(self.s), self.count + len(new)
        own = new[:, :d] @ self.along.T
        new[:, d : 2 * d] += self.ridge * new[:, :d]
        new -= own @ self.space[: self.count]
        metric = new[:, d : 2 * d] @ new[:, :d].T
        if len(new) == 1:
            new /= np.sqrt(metric)
            self.space[self.count] = new[0]
        else:
            unit = np.linalg.inv(np.linalg.cholesky(metric))
            np.matmul(unit, new, out=self.space[self.count : end])
        self.count = end
