"""Davidson iterations from the last step's canonical vectors, on the host.

The equations are :math:`S_{12} b = \\tau S_{11} a`, :math:`S_{21} a = \\tau S_{22} b` (E. R.
Davidson, J. Comput. Phys. 17, 1975). The products of the kept vectors with the covariances are
updated as the covariances are, so that a step reads the wide matrices only for new vectors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trn_plugin.relation import precision
from trn_plugin.relation._ranks import sum_over_ranks, world_size
from trn_plugin.relation._whitening import factor
from trn_plugin.relation.solvers import Batch
from trn_plugin.relation.solvers._preconditioner import (
    Correction,
    Preconditioner,
    shift_inverted,
)
from trn_plugin.relation.solvers._projection import Basis, Projection

__all__ = ["Davidson", "DavidsonState"]

KEPT = 8  # vectors kept from step to step: correlations that nearly touch are kept apart by them
ITERATIONS_AFTER_EXACT = 4  # that refine an exact solution in float32
# Extra iterations, for each feature, that cost as much as a new preconditioner.
REFRESH_COST = 0.05


class DavidsonState:
    """Vectors, their products, and a preconditioner; of fixed shapes, so that it can be saved.

    Args:
        d1, d2 (int): widths of the two tasks.
    """

    def __init__(self, d1: int, d2: int) -> None:
        single, double = {"dtype": torch.float32}, {"dtype": torch.float64}
        self.preconditioner = Preconditioner(
            torch.zeros(d1, d1, **single),
            torch.zeros(d1, d2, **single),
            torch.zeros(d2, d2, **single),
            torch.zeros((), **double),
        )
        self.vectors = torch.zeros(KEPT, d1, **double), torch.zeros(KEPT, d2, **double)
        self.products = torch.zeros(2, KEPT, d1 + d2, **double)
        # whether there is a solution; iterations above the fewest since the refresh; the fewest
        self.counts = torch.zeros(3, dtype=torch.int64)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of it."""
        return *self.preconditioner, *self.vectors, self.products, self.counts

    @property
    def is_ready(self) -> bool:
        """Whether there is a solution to start from."""
        return bool(self.counts[0])

    def reset(self) -> None:
        """Make the next step solve exactly."""
        for tensor in self.tensors:
            tensor.zero_()

    def to_bytes(self) -> Tensor:
        """(n,) uint8; n depends on the widths alone."""
        return torch.cat([t.reshape(-1).view(torch.uint8) for t in self.tensors])

    def from_bytes(self, values: Tensor) -> None:
        """Take over what :meth:`to_bytes` gave; of another size it is ignored."""
        sizes = [t.numel() * t.element_size() for t in self.tensors]
        self.reset()
        if sum(sizes) == len(values):
            for tensor, own in zip(self.tensors, values.cpu().split(sizes), strict=True):
                tensor.copy_(own.clone().view(tensor.dtype).view(tensor.shape))


class Davidson:
    """For a pair of wide tasks; every solution is checked.

    The next correction of the two canonical vectors is their error, to first order; the change of
    the gradient that it causes (see :class:`Correction`) has to be below the tolerance. Otherwise
    the pair is solved exactly. The preconditioner is refreshed when its age has cost as many
    iterations as a new one is worth.
    """

    @staticmethod
    def suits(d1: int, d2: int) -> bool:
        """Whether tasks are wide enough for iterations to pay."""
        return min(d1, d2) >= 96

    def init(self, d1: int, d2: int) -> DavidsonState:
        """See :class:`Solver`."""
        return DavidsonState(d1, d2)

    def solve(
        self,
        state: DavidsonState,
        s: tuple[Tensor, Tensor, Tensor],
        shrinkage: float,
        batch: Batch,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], DavidsonState, bool]:
        """See :class:`Solver`; of one pair."""
        s, variates = tuple(block[0] for block in s), None
        tolerance = precision.tolerance(batch.dtype)
        if state.is_ready:
            if batch.taken:
                variates = _update_products(state, batch)
            found = _iterate(state, s, shrinkage, variates, tolerance, tolerance.iterations)
            if found is not None:
                solution, iterations = found
                if batch.taken and _is_stale(state, iterations, min(s[1].shape)):
                    _refresh(state, s, shrinkage, float(solution[0]))
                return solution, state, False
        return _solve_exactly(state, s, shrinkage, variates, tolerance, batch), state, True


def _update_products(state: DavidsonState, batch: Batch) -> tuple[float, float, float] | None:
    """Update the products as the covariances were; the batch's variates for ``Correction``."""
    x, gain = batch.features, 1 - batch.momentum
    v1, v2 = state.vectors
    d1 = v1.shape[1]
    all_variates = x.new_empty(2, KEPT, len(x))
    torch.mm(v1.to(x.dtype), x[:, :d1].mT, out=all_variates[0])
    torch.mm(v2.to(x.dtype), x[:, d1:].mT, out=all_variates[1])
    own = all_variates.double()
    p, q = own[0, 0], own[1, 0]
    sums = torch.stack([p.dot(p), q.dot(q), p.dot(q), own.square().sum() / (2 * KEPT)])
    *inner, length = sum_over_ranks(sums).tolist()
    products = all_variates.flatten(0, 1).mul_(gain) @ x
    if world_size() > 1:
        products = sum_over_ranks(products.double())
    state.products.mul_(batch.momentum).add_(products.view_as(state.products))
    return tuple(value / length for value in inner) if length > 0 else None


def _solve_exactly(
    state: DavidsonState,
    s: tuple[Tensor, ...],
    shrinkage: float,
    variates,
    tolerance: precision.Tolerance,
    batch: Batch,
) -> tuple[Tensor, Tensor, Tensor]:
    s11, s12, s22 = (block.double() for block in s)
    l1, l2 = factor(s11, shrinkage), factor(s22, shrinkage)
    k = torch.linalg.solve_triangular(l1, s12, upper=False)
    k = torch.linalg.solve_triangular(l2, k.mT, upper=False).mT
    # float32 with some iterations is as accurate, and faster
    dtypes = (torch.float32, torch.float64)[batch.samples < precision.FEWEST_SAMPLES :]
    for dtype in dtypes:
        u, values, v = _leading_triples(k.to(dtype))
        if not float(values[0]) > 64 * torch.finfo(dtype).eps:
            state.reset()
            continue
        a, b = (
            torch.linalg.solve_triangular(lower.mT, w.double(), upper=True).mT
            for lower, w in ((l1, u), (l2, v))
        )
        found = None
        if _refresh(state, s, shrinkage, float(values[0])):
            torch.cat([a @ s11, a @ s12], 1, out=state.products[0])
            torch.cat([b @ s12.mT, b @ s22], 1, out=state.products[1])
            state.vectors[0].copy_(a)
            state.vectors[1].copy_(b)
            state.counts[0] = 1
            if dtype == torch.float32:
                steps = ITERATIONS_AFTER_EXACT
                found = _iterate(state, s, shrinkage, variates, tolerance, steps)
        else:
            state.reset()
        if dtype == torch.float64:
            return values[:1].clamp(max=1.0), a[:1], b[:1]
        if found is not None:
            return found[0]
    return k.new_zeros(1), torch.zeros_like(s11[:1]), torch.zeros_like(s22[:1])


def _is_stale(state: DavidsonState, iterations: int, width: int) -> bool:
    """Whether the preconditioner's age has cost as many iterations as a refresh is worth."""
    _, extra, fewest = state.counts.tolist()
    fewest = min(fewest, iterations)
    extra += iterations - fewest
    state.counts[1], state.counts[2] = extra, fewest
    return extra >= REFRESH_COST * width


def _refresh(state: DavidsonState, s: tuple[Tensor, ...], shrinkage: float, tau: float) -> bool:
    """Make a new preconditioner; where that fails the stale one stays, and False is returned."""
    state.counts[1], state.counts[2] = 0, torch.iinfo(torch.int64).max
    found = shift_inverted(*s, shrinkage, tau)
    if found is None:
        return False
    for own, new in zip(state.preconditioner, found, strict=True):
        own.copy_(new)
    return True


def _iterate(
    state: DavidsonState,
    s: tuple[Tensor, ...],
    shrinkage: float,
    variates,
    tolerance: precision.Tolerance,
    iterations: int,
) -> tuple[tuple[Tensor, Tensor, Tensor], int] | None:
    """tau, a and b, and the iterations they took; None where they are not accurate enough."""
    s11, s12, s22 = s
    (v1, v2), (p1, p2) = state.vectors, state.products
    first = Basis(s11, s12, shrinkage, v1, p1, iterations, 0)
    second = Basis(s22, s12.mT, shrinkage, v2, p2, iterations, len(s11))
    projection = Projection(first, second)
    try:
        found = projection.is_valid and _improve(
            projection, state.preconditioner, variates, tolerance.gradient, iterations
        )
    except torch.linalg.LinAlgError:  # values that are not finite
        return None
    if not found:
        return None
    tau, taken = found
    for side, (vectors, products) in enumerate(projection.ritz_vectors(KEPT)):
        state.vectors[side].copy_(vectors)
        state.products[side].copy_(products)
    tau = torch.tensor([min(tau, 1.0)], dtype=torch.float64)
    return (tau, v1[:1].clone(), v2[:1].clone()), taken


def _improve(
    projection: Projection,
    preconditioner: Preconditioner,
    variates,
    accuracy: float,
    iterations: int,
) -> tuple[float, int] | None:
    """tau, and the iterations that it took."""
    correct = None
    for iteration in range(iterations + 1):
        tau, u, v = projection.solve()
        if correct is None:
            cross = projection.sides[0].cross
            correct = Correction(preconditioner, cross, tau, variates, accuracy)
        x, y, error = correct(*projection.residuals(tau, u, v))
        if not error < math.inf:
            return None
        if iteration > 0 and error <= accuracy:
            change, rotation = projection.second_order_change(tau, u, v, x, y)
            error = (error**2 + change / correct.sine**2) ** 0.5 + rotation
            if error <= accuracy:
                return tau, iteration
        if iteration == iterations:
            return None
        projection.extend(x, y)
    return None


def _leading_triples(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u (d1, KEPT), s (KEPT,), v (d2, KEPT), faster than by ``linalg.svd``.

    As exact; values below sqrt(eps) of the first are not in order.
    """
    if len(k) < k.shape[1]:
        v, s, u = _leading_triples(k.mT)
        return u, s, v
    v = torch.linalg.eigh(k.mT @ k)[1][:, -KEPT:].flip(1)
    # orthonormal even where squares of small values are lost to rounding
    u, r = torch.linalg.qr(k @ v)
    s = r.diagonal()
    return u * s.sign().add(0.5).sign(), s.abs(), v
