"""The leading canonical vectors of moments that change slowly, from where they were a step ago.

A block Davidson iteration for the pair of equations :math:`S_{12} b = \\tau S_{11} a`,
:math:`S_{21} a = \\tau S_{22} b`. The correction of a residual takes the canonical vectors of an
earlier, exact solution for those of now (Davidson, J. Comput. Phys. 17, 1975): in that basis the
equations are nearly diagonal. All corrections of a step are kept, as the changes since that
solution have low rank: few directions, and each is found once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trn_plugin.relation._canonical import factor, whiten

__all__ = ["WarmPair"]

BLOCK = 8  # vectors carried from step to step: values that nearly touch are told apart by them
ROWS = 2  # residuals corrected in an iteration
MIN_GAP = 0.02  # corrections along what is this close to the leading value are damped
MIN_ANGLE = 1e-3  # sine below which two variates count as the same
USUAL = 2  # iterations with a fresh basis
WORTH = 0.1  # iterations that an exact solution is worth, for each feature

_BASIS = ("basis1", "basis2", "spectrum", "block1", "block2", "spent")


class WarmPair(nn.Module):
    """Largest canonical correlation of one pair of wide tasks, step after step.

    Each answer is checked: with r the residual of the leading pair in whitened coordinates,
    :math:`|r| \\le 5\\, \\mathrm{accuracy} \\cdot (\\tau_1 - \\tau_8) \\sqrt{1 - \\tau_1^2}`
    (the gradient is as wrong as the vectors are, relative to how far the two variates are apart).
    Where the iterations do not get there, the pair is solved exactly, and its canonical vectors
    become the basis of the next corrections; so too when the iterations that the old basis has
    cost add up to the cost of a new one.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in _BASIS:
            self.register_buffer(name, None)

    def forget(self) -> None:
        """Take the exact route at the next step."""
        for name in _BASIS:
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
        probe: tuple[Tensor, Tensor],
        accuracy: float,
        iterations: int,
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Canonical pair of moments on a CPU.

        Args:
            s11, s12, s22 (Tensor): (d1, d1), (d1, d2), (d2, d2) moments, float64.
            shrinkage (float): epsilon, see :func:`factor`.
            probe (tuple[Tensor, Tensor]): (d1,), (d2,), a combination of this batch's samples:
                what they alone have in common is looked for too.
            accuracy (float): relative error allowed in the gradient.
            iterations (int): corrections before the exact route is taken.

        Returns:
            tau (0-d), a (d1,), b (d2,), and whether the exact route was taken.
        """
        pencil = _Pencil(s11, s12, s22, shrinkage)
        if self.block1 is not None and int(self.spent) < WORTH * min(s12.shape):
            found = self._iterate(pencil, probe, accuracy, iterations)
            if found is not None:
                return *found, False
        return *self._solve_exactly(pencil, probe, shrinkage, accuracy), True

    def _solve_exactly(self, pencil: _Pencil, probe, shrinkage: float, accuracy: float):
        s11, s12, s22 = pencil.s11, pencil.s12, pencil.s22
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
            self.block1, self.block2 = first[:BLOCK].double(), second[:BLOCK].double()
            self.basis1, self.basis2 = first.float().contiguous(), second.float().contiguous()
            self.spectrum, self.spent = s.float(), torch.zeros((), dtype=torch.int64)
            if dtype == torch.float64:
                return s[0].clamp(max=1.0), first[0], second[0]
            found = self._iterate(pencil, probe, accuracy, 2 * USUAL)
            if found is not None:
                return found
        return k.new_zeros(()), torch.zeros_like(s11[0]), torch.zeros_like(s22[0])

    def _iterate(
        self, pencil: _Pencil, probe: tuple[Tensor, Tensor], accuracy: float, iterations: int
    ):
        """tau, a, b; None where they are not accurate enough."""
        space = pencil.orthonormal(pencil.apply(self.block1, self.block2))
        for iteration in range(iterations + 1):
            if space is None:
                return None
            (a, sa, ta), (b, sb, tb) = map(pencil.split, space, (0, 1))
            u, values, vh = torch.linalg.svd(ta @ b.mT)
            lead, first, second = values[:ROWS, None], u.mT[:ROWS], vh[:ROWS]
            r1 = second @ tb - lead * (first @ sa)
            r2 = first @ ta - lead * (second @ sb)
            r1, r2 = r1.float() @ self.basis1.T, r2.float() @ self.basis2.T
            residual = float(r1[0].dot(r1[0]) + r2[0].dot(r2[0])) ** 0.5
            if iteration > 0 and residual <= _allowed(values, accuracy):
                self.block1, self.block2 = u.mT[:BLOCK] @ a, vh[:BLOCK] @ b
                self.spent += max(iteration - USUAL, 0)
                return values[0].clamp(max=1.0), self.block1[0], self.block2[0]
            if iteration == iterations or not math.isfinite(residual):
                return None
            w, v = self._corrections(r1, r2, lead.float())
            if iteration == 0 and all(bool(side.any()) for side in probe):
                w = torch.cat([w, self._whitened(probe[0], self.basis1)])
                v = torch.cat([v, self._whitened(probe[1], self.basis2)])
            new = pencil.apply(w.to(a.dtype), v.to(b.dtype))
            # less their part in the space, whose rows are orthonormal
            new = [
                n - (n[:, : s.shape[1]] @ s.mT) @ x
                for n, s, x in zip(new, (sa, sb), space, strict=True)
            ]
            new = pencil.orthonormal(new)
            space = new and [torch.cat(rows) for rows in zip(space, new, strict=True)]
        return None

    def _corrections(self, r1: Tensor, r2: Tensor, lead: Tensor) -> tuple[Tensor, Tensor]:
        """Solve the equations for the residuals (q, d) as if the basis' were today's vectors."""
        n = len(self.spectrum)
        distance = lead**2 - self.spectrum**2
        distance = torch.where(distance < 0, -1.0, 1.0) * distance.abs().clamp(min=MIN_GAP)
        x, y = r1 / lead, r2 / lead
        x[:, :n] = (lead * r1[:, :n] + self.spectrum * r2[:, :n]) / distance
        y[:, :n] = (self.spectrum * r1[:, :n] + lead * r2[:, :n]) / distance
        return x @ self.basis1, y @ self.basis2

    @staticmethod
    def _whitened(probe: Tensor, basis: Tensor) -> Tensor:
        return (probe.to(basis.dtype)[None] @ basis.T) @ basis

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for name in _BASIS:
            saved = state_dict.get(prefix + name)
            setattr(self, name, None if saved is None else torch.empty_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _allowed(values: Tensor, accuracy: float) -> float:
    """Largest residual that keeps the gradient's relative error."""
    gap, angle = float(values[0] - values[BLOCK - 1]), 1 - float(values[0]) ** 2
    return 5 * accuracy * max(gap, MIN_ANGLE) * max(angle, MIN_ANGLE**2) ** 0.5


class _Pencil:
    """The two sides' shrunk moments and their cross moments."""

    def __init__(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> None:
        self.s11, self.s12, self.s22 = s11, s12, s22
        self.ridge1 = shrinkage * s11.diagonal().mean()
        self.ridge2 = shrinkage * s22.diagonal().mean()

    def apply(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """Rows a, a S11, a S12 side by side, and b, b S22, b S21."""
        sa = torch.addcmul(a @ self.s11, a, self.ridge1)
        sb = torch.addcmul(b @ self.s22, b, self.ridge2)
        return [torch.cat([a, sa, a @ self.s12], 1), torch.cat([b, sb, b @ self.s12.mT], 1)]

    def split(self, rows: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """The three parts of a side's rows."""
        own, other = self.s12.shape if side == 0 else self.s12.shape[::-1]
        return rows.split((own, own, other), 1)

    def orthonormal(self, space: list[Tensor]) -> list[Tensor] | None:
        """Rows combined to be orthonormal in the moments' metric; None where they are dependent."""
        combined = []
        for side, rows in enumerate(space):
            own, product, _ = self.split(rows, side)
            lower, fault = torch.linalg.cholesky_ex(product @ own.mT)
            if bool(fault):
                return None
            identity = torch.eye(len(lower), dtype=lower.dtype)
            combined.append(torch.linalg.solve_triangular(lower, identity, upper=False) @ rows)
        return combined
