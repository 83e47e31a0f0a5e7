"""The leading canonical vectors of moments that change slowly, from where they were a step ago.

A block Davidson iteration for the pair of equations :math:`S_{12} b = \\tau S_{11} a`,
:math:`S_{21} a = \\tau S_{22} b`. The correction of a residual takes the canonical vectors of an
earlier, exact solution for those of now (Davidson, J. Comput. Phys. 17, 1975): in that basis the
equations are nearly diagonal. All corrections of a step are kept, as the changes since that
solution have low rank: few directions, and each is found once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trn_plugin.relation._canonical import factor, whiten

__all__ = ["WarmPair"]

BLOCK = 8  # vectors carried from step to step: values that nearly touch are told apart by them
ROWS = 2  # residuals corrected in an iteration
MIN_GAP = 0.02  # corrections along what is this close to the leading value are damped
MIN_ANGLE = 1e-3  # sine below which two variates count as the same
DEPENDENT = 1e-20  # share of a row's squared length outside the space, below which it adds nothing

_BASIS = ("basis1", "basis2", "spectrum", "block1", "block2")


class WarmPair(nn.Module):
    """Largest canonical correlation of one pair of wide tasks, step after step.

    Each answer is checked: with r the residual of the leading pair in whitened coordinates,
    :math:`|r| \\le 10\\, \\mathrm{accuracy} \\cdot (\\tau_1 - \\tau_8) \\sqrt{1 - \\tau_1^2}`
    (the gradient is as wrong as the vectors are, relative to how far the two variates are apart).
    Where the iterations do not get there, the pair is solved exactly, and its canonical vectors
    become the basis of the next corrections.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in _BASIS:
            self.register_buffer(name, None)

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
        if self.block1 is not None:
            pencil = _Pencil(s11, s12, s22, shrinkage)
            found = self._iterate(pencil, probe, accuracy, iterations)
            if found is not None:
                return *found, False
        return *self._solve_exactly(s11, s12, s22, shrinkage), True

    def _solve_exactly(self, s11, s12, s22, shrinkage):
        l1, unit1 = factor(s11, shrinkage)
        l2, unit2 = factor(s22, shrinkage)
        k = whiten(l1, unit1, s12, l2, unit2)
        u, s, vh = torch.linalg.svd(k)
        if not bool(s[0] > 64 * torch.finfo(s.dtype).eps):
            for name in _BASIS:
                setattr(self, name, None)
            return torch.zeros_like(s[0]), torch.zeros_like(s11[0]), torch.zeros_like(s22[0])
        first = torch.linalg.solve_triangular(l1.mT, u, upper=True).mT / unit1
        second = torch.linalg.solve_triangular(l2.mT, vh.mT, upper=True).mT / unit2
        self.block1, self.block2 = first[:BLOCK].contiguous(), second[:BLOCK].contiguous()
        self.basis1, self.basis2 = first.float().contiguous(), second.float().contiguous()
        self.spectrum = s.float()
        return s[0].clamp(max=1.0), first[0], second[0]

    def _iterate(
        self, pencil: _Pencil, probe: tuple[Tensor, Tensor], accuracy: float, iterations: int
    ):
        """tau, a, b; None where they are not accurate enough."""
        space = pencil.apply(self.block1, self.block2)
        for iteration in range(iterations + 1):
            values, space = _rayleigh_ritz(space)
            if values is None:
                return None
            a, b, sa, sb, ta, tb = space
            lead = values[:ROWS, None]
            r1, r2 = (tb[:ROWS] - lead * sa[:ROWS]).float(), (ta[:ROWS] - lead * sb[:ROWS]).float()
            r1, r2 = r1 @ self.basis1.T, r2 @ self.basis2.T
            if iteration > 0 and _accurate(r1[0], r2[0], values, accuracy):
                self.block1, self.block2 = a[:BLOCK].clone(), b[:BLOCK].clone()
                return values[0].clamp(max=1.0), a[0], b[0]
            if iteration == iterations:
                return None
            w, v = self._corrections(r1, r2, lead.float())
            if iteration == 0:
                w = torch.cat([w, self._whitened(probe[0], self.basis1)])
                v = torch.cat([v, self._whitened(probe[1], self.basis2)])
            new = pencil.apply(w.to(a.dtype), v.to(b.dtype))
            space = [torch.cat(p) for p in zip(space, _orthogonal_to(space, new), strict=True)]

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


def _accurate(r1: Tensor, r2: Tensor, values: Tensor, accuracy: float) -> bool:
    residual = float(r1.dot(r1) + r2.dot(r2)) ** 0.5
    gap, angle = float(values[0] - values[BLOCK - 1]), 1 - float(values[0]) ** 2
    return residual <= 10 * accuracy * max(gap, MIN_ANGLE) * max(angle, MIN_ANGLE**2) ** 0.5


class _Pencil:
    """The two sides' shrunk moments and their cross moments."""

    def __init__(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> None:
        self.s11, self.s12, self.s22 = s11, s12, s22
        self.ridge1 = shrinkage * s11.diagonal().mean()
        self.ridge2 = shrinkage * s22.diagonal().mean()

    def apply(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """Rows a, b, their products with S11 and S22, and a S12, b S21."""
        sa = torch.addcmul(a @ self.s11, a, self.ridge1)
        sb = torch.addcmul(b @ self.s22, b, self.ridge2)
        return [a, b, sa, sb, a @ self.s12, b @ self.s12.mT]


def _rayleigh_ritz(space: list[Tensor]):
    """The best canonical pairs within the rows of a space, by falling value; (None, _) if singular.

    Returns:
        Values (r,), and the space rotated to them: rows orthonormal in the moments' metric.
    """
    a, b, sa, sb, _, tb = space
    l1, fault1 = torch.linalg.cholesky_ex(sa @ a.mT)
    l2, fault2 = torch.linalg.cholesky_ex(sb @ b.mT)
    if bool(fault1 | fault2):
        return None, space
    k = torch.linalg.solve_triangular(l1, a @ tb.mT, upper=False)
    k = torch.linalg.solve_triangular(l2, k.mT, upper=False).mT
    if not bool(torch.isfinite(k).all()):
        return None, space
    u, values, vh = torch.linalg.svd(k)
    c1 = torch.linalg.solve_triangular(l1.mT, u, upper=True).mT
    c2 = torch.linalg.solve_triangular(l2.mT, vh.mT, upper=True).mT
    return values, [c @ x for c, x in zip((c1, c2) * 3, space, strict=True)]


def _orthogonal_to(space: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    """New rows less their part in the space, scaled to unit length in the moments' metric."""
    a, b, sa, sb, ta, tb = space
    w, v, sw, sv, tw, tv = new
    c1, c2 = w @ sa.mT, v @ sb.mT
    w, sw, tw = w - c1 @ a, sw - c1 @ sa, tw - c1 @ ta
    v, sv, tv = v - c2 @ b, sv - c2 @ sb, tv - c2 @ tb
    # what the space holds already would only bring rounding errors in
    n1, n2 = ((x * sx).sum(1, keepdim=True) for x, sx in ((w, sw), (v, sv)))
    kept1 = (n1 > DEPENDENT * (n1 + c1.square().sum(1, keepdim=True)))[:, 0]
    kept2 = (n2 > DEPENDENT * (n2 + c2.square().sum(1, keepdim=True)))[:, 0]
    n1, n2 = n1[kept1].sqrt(), n2[kept2].sqrt()
    sides = ((w, kept1, n1), (v, kept2, n2), (sw, kept1, n1), (sv, kept2, n2), (tw, kept1, n1))
    return [x[kept] / n for x, kept, n in (*sides, (tv, kept2, n2))]
