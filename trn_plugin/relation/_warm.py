"""The leading canonical vectors of moments that change slowly, from where they were a step ago.

A Davidson iteration for the pair of equations :math:`S_{12} b = \\tau S_{11} a`,
:math:`S_{21} a = \\tau S_{22} b` (J. Comput. Phys. 17, 1975). The correction of a residual takes
the moments of some steps ago for those of now. What the moments make of the vectors carried from
step to step follows the moments' own update, so that a step reads the wide matrices only for what
is new.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from trn_plugin.relation._canonical import factor, whiten
from trn_plugin.relation._correction import Correction, eliminate
from trn_plugin.relation._ranks import sum_over_ranks, world_size
from trn_plugin.relation._subspace import Side, Subspace

__all__ = ["WarmPair"]

BLOCK = 8  # vectors carried from step to step: values that nearly touch are told apart by them
FEW = 32  # samples that may be unlike the moments, too much for float32
AT_FIRST = 4  # iterations after an exact solution in float32
WORTH = 0.05  # iterations above the fewest that new corrections are worth, for each feature


class WarmPair(nn.Module):
    """Largest canonical correlation of one pair of wide tasks, step after step.

    Each answer is checked: the next correction of the two canonical vectors is what they lack, to
    first order, and what that would change in the gradient (see :class:`Correction`) has to be
    less than ``accuracy`` of it. Where the iterations do not get there, the pair is solved
    exactly. The age of the corrections costs iterations: those above the fewest of a step since
    they were made. When they add up to the cost of new ones, new ones are made.
    """

    BASIS = ("inverse1", "carry", "inverse2", "shift")
    STATE = (*BASIS, "carried1", "carried2", "images", "spent", "fewest")

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
        batch: Tensor,
        samples: int,
        momentum: float,
        gain: float,
        accuracy: float,
        iterations: int,
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Canonical pair of moments on a CPU.

        Args:
            s11, s12, s22 (Tensor): (d1, d1), (d1, d2), (d2, d2) moments.
            shrinkage (float): epsilon, see :func:`factor`.
            batch (Tensor): (N, d1 + d2) centred features of this process that the moments have
                taken in since the last call.
            samples (int): of them that count, on all processes.
            momentum (float): m of that update.
            gain (float): 1 - m, or 0 where the batch was left out.
            accuracy (float): relative error allowed in the gradient.
            iterations (int): corrections before the exact route is taken.

        Returns:
            tau (1,), a (1, d1), b (1, d2), float64, and whether the exact route was taken.
        """
        moments, variates = (s11, s12, s22), None
        if self.carried1 is not None:
            if gain:
                variates = self._follow(batch, momentum, gain)
            found = self._iterate(moments, shrinkage, variates, accuracy, iterations)
            if found is not None:
                *triple, taken = found
                if gain and self._is_worn(taken, min(s12.shape)):
                    self._renew(moments, shrinkage, float(triple[0]))
                return *triple, False
        return *self._solve_exactly(moments, shrinkage, variates, accuracy, samples), True

    def _follow(self, batch: Tensor, momentum: float, gain: float) -> np.ndarray:
        """Update the carried products as the moments were.

        Returns:
            (4,) with p and q the batch's variates by the pair carried first: p'p, q'q, p'q, and
            the mean square length of its variates by all that is carried.
        """
        k, d1 = self.carried1.shape
        weights = batch.new_empty(2, k, len(batch))
        torch.mm(self.carried1.to(batch.dtype), batch[:, :d1].T, out=weights[0])
        torch.mm(self.carried2.to(batch.dtype), batch[:, d1:].T, out=weights[1])
        rows = weights.numpy().astype(np.float64)
        p, q = rows[:, 0]
        variates = np.array([p @ p, q @ q, p @ q, np.vdot(rows, rows) / (2 * k)])
        variates = sum_over_ranks(torch.from_numpy(variates)).numpy()
        products = weights.flatten(0, 1).mul_(gain) @ batch
        if world_size() > 1:
            # of all ranks' samples, or their warm starts would drift apart
            products = sum_over_ranks(products.double())
        images = self.images.numpy()
        images *= momentum
        images += products.numpy().reshape(images.shape)
        return variates

    def _solve_exactly(self, moments, shrinkage: float, variates, accuracy: float, samples: int):
        s11, s12, s22 = (s.double() for s in moments)
        l1, unit1 = factor(s11, shrinkage)
        l2, unit2 = factor(s22, shrinkage)
        k = whiten(l1, unit1, s12, l2, unit2)
        # float32 will do to begin with, and its iterations give what the promised accuracy asks
        for dtype in (torch.float32, torch.float64)[samples < FEW :]:
            u, s, v = _leading_triples(k.to(dtype))
            if not bool(s[0] > 64 * torch.finfo(dtype).eps):
                self.forget()
                continue
            a, b = (
                torch.linalg.solve_triangular(lower.mT, w.double(), upper=True).mT / unit
                for lower, w, unit in ((l1, u, unit1), (l2, v, unit2))
            )
            found = None
            if self._renew(moments, shrinkage, float(s[0])):
                self.carried1, self.carried2 = a, b
                images = torch.cat([a @ s11, a @ s12], 1), torch.cat([b @ s12.mT, b @ s22], 1)
                self.images = torch.stack(images)
                if dtype == torch.float32:
                    found = self._iterate(moments, shrinkage, variates, accuracy, AT_FIRST)
            else:
                self.forget()
            if dtype == torch.float64:
                return s[:1].clamp(max=1.0), a[:1], b[:1]
            if found is not None:
                return found[:3]
        return k.new_zeros(1), torch.zeros_like(s11[:1]), torch.zeros_like(s22[:1])

    def _is_worn(self, taken: int, smaller: int) -> bool:
        """Whether the corrections' age has cost as much as new ones, after a step's iterations."""
        spent, fewest = self.spent.numpy(), self.fewest.numpy()
        np.minimum(fewest, taken, out=fewest)
        spent += taken - fewest
        return int(spent) >= WORTH * smaller

    def _renew(self, moments: tuple[Tensor, ...], shrinkage: float, tau: float) -> bool:
        """Make the corrections of today's moments; False, and they stay, where that fails."""
        self.spent = torch.zeros((), dtype=torch.int64)
        self.fewest = torch.full((), torch.iinfo(torch.int64).max)
        found = eliminate(*moments, shrinkage, tau)
        if found is None:
            return False
        for name, value in zip(self.BASIS, found, strict=True):
            setattr(self, name, value)
        return True

    def _iterate(self, moments, shrinkage: float, variates, accuracy: float, iterations: int):
        """tau, a, b, and the iterations it took; None where they are not accurate enough."""
        s11, s12, s22 = (s.numpy() for s in moments)
        first = self.carried1.numpy(), self.images[0].numpy()
        second = self.carried2.numpy(), self.images[1].numpy()
        sides = (
            Side(s11, s12, shrinkage, *first, iterations, 0),
            Side(s22, s12.T, shrinkage, *second, iterations, len(s11)),
        )
        try:
            with np.errstate(all="ignore"):
                space = Subspace(*sides)
                found = self._improve(space, variates, accuracy, iterations)
        except np.linalg.LinAlgError:  # dependent rows, or values that are not finite
            return None
        if found is None:
            return None
        tau, taken = found
        space.keep(first, second)
        tau = torch.tensor([min(tau, 1.0)], dtype=torch.float64)
        return tau, self.carried1[:1].clone(), self.carried2[:1].clone(), taken

    def _improve(self, space: Subspace, variates, accuracy: float, iterations: int):
        """tau, and the iterations it took."""
        basis = [getattr(self, name).numpy() for name in self.BASIS]
        correct = None
        for iteration in range(iterations + 1):
            tau, u, v = space.leading()
            if correct is None:
                correct = Correction(*basis, space.sides[0].cross, tau, variates, accuracy)
            x, y, missing = correct(*space.residuals(tau, u, v))
            if not missing < np.inf:
                return None
            if iteration > 0 and missing <= accuracy:
                change, turn = space.turn(tau, u, v, x, y)
                missing = (missing**2 + change / correct.sine**2) ** 0.5 + turn
                if missing <= accuracy:
                    return tau, iteration
            if iteration == iterations:
                return None
            space.add(x, y)
        return None

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        keys = [prefix + name for name in self.STATE]
        if not all(key in state_dict for key in keys):  # another version's, or none
            for key in keys:
                state_dict.pop(key, None)
        for name, key in zip(self.STATE, keys, strict=True):
            saved = state_dict.get(key)
            setattr(self, name, None if saved is None else torch.empty_like(saved, device="cpu"))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _leading_triples(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u (d1, n), s (n,), v (d2, n), faster than by ``linalg.svd``; n is at most ``BLOCK``.

    As exact; values below sqrt(eps) of the first are not in order.
    """
    if len(k) < k.shape[1]:
        v, s, u = _leading_triples(k.mT)
        return u, s, v
    v = torch.linalg.eigh(k.mT @ k)[1][:, -BLOCK:].flip(1)
    # orthonormal even where squares of small values are lost to rounding
    u, r = torch.linalg.qr(k @ v)
    s = r.diagonal()
    return u * s.sign().add(0.5).sign(), s.abs(), v
