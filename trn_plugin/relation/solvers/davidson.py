"""The iterative solver for wide pairs: Davidson iterations, started from the last step's vectors.

Solves :math:`S_{12} b = \\tau S_{11} a`, :math:`S_{21} a = \\tau S_{22} b` (E. R. Davidson,
J. Comput. Phys. 17, 1975). The products of the kept vectors with the covariances are updated along
with the covariances, so a step reads the wide matrices only for new vectors.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trn_plugin.ranks import sum_over_ranks, world_size
from trn_plugin.relation import precision
from trn_plugin.relation._whitening import factors, unwhiten, whiten
from trn_plugin.relation.solvers._preconditioner import Correction, Preconditioner, shift_inverted
from trn_plugin.relation.solvers._projection import Basis, Projection
from trn_plugin.relation.solvers.exact import leading_triples

__all__ = ["DavidsonState", "Update", "solve"]

KEPT = 8  # vectors kept from step to step; one could not separate nearly equal correlations
REFRESH_COST = 0.05  # cost of a new preconditioner in iterations, for each feature

Triple = tuple[Tensor, Tensor, Tensor]


class Update(NamedTuple):
    """The update of the covariances since the last solution."""

    features: Tensor  # (N, d1 + d2) centred, of this process
    momentum: float
    updated: bool  # False if the batch was left out
    batches: int  # updates so far
    dtype: torch.dtype  # of the features as given; sets the accuracy


class DavidsonState:
    """Vectors, their products and a preconditioner, of fixed shapes for checkpoints."""

    def __init__(self, d1: int, d2: int) -> None:
        shapes = (d1, d1), (d1, d2), (d2, d2)
        inverses = [torch.zeros(shape, dtype=torch.float32) for shape in shapes]
        self.preconditioner = Preconditioner(*inverses, torch.zeros((), dtype=torch.float64))
        # vectors and their products, see Basis
        self.rows1 = torch.zeros(KEPT, 2 * d1 + d2, dtype=torch.float64)
        self.rows2 = torch.zeros(KEPT, 2 * d2 + d1, dtype=torch.float64)
        # [0] updates when last solved, 0 for never. Since the last refresh of the preconditioner:
        # [2] fewest iterations of a step, [1] sum over the steps of the iterations beyond those
        self.counts = torch.zeros(3, dtype=torch.int64)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the state."""
        return *self.preconditioner, self.rows1, self.rows2, self.counts

    def reset(self) -> None:
        """Make the next step solve exactly."""
        for tensor in self.tensors:
            tensor.zero_()


def solve(state: DavidsonState, s: Triple, shrinkage: float, update: Update) -> tuple[Triple, bool]:
    """tau, a and b of one pair, as of :func:`exact.solve`, and whether it was solved exactly.

    The next correction of a and b is their error to first order. If the change of the gradient
    that it causes (see :class:`Correction`) exceeds the tolerance, the pair is solved exactly.
    """
    s = tuple(block[0] for block in s)
    solution = None
    if _follows(state, update):
        variates = _update_products(state, update) if update.updated else None
        solution = _iterate(state, s, shrinkage, variates, update)
    if is_exact := solution is None:
        state.reset()
        solution = _solve_exactly(state, s, shrinkage)
    state.counts[0] = update.batches * bool(state.preconditioner.shift)
    return solution, is_exact


def _follows(state: DavidsonState, update: Update) -> bool:
    """Whether every process has a state for the covariances just before this update."""
    before = update.batches - update.updated
    follows = torch.tensor(int(state.counts[0]) == before != 0, dtype=torch.int64)
    return int(sum_over_ranks(follows)) == world_size()


def _update_products(state: DavidsonState, update: Update) -> tuple[float, float, float] | None:
    """Update the products like the covariances; returns the ``variates`` of ``Correction``."""
    x, d1 = update.features, len(state.preconditioner.inverse1)
    d2 = x.shape[1] - d1
    v1, v2 = state.rows1[:, :d1].to(x.dtype), state.rows2[:, :d2].to(x.dtype)
    variates = torch.cat([v1 @ x[:, :d1].mT, v2 @ x[:, d1:].mT])
    own = variates.double()
    p, q = own[0], own[KEPT]
    sums = torch.stack([p.dot(p), q.dot(q), p.dot(q), own.square().sum() / (2 * KEPT)])
    *inner, length = sum_over_ranks(sums).tolist()
    products = variates.mul_(1 - update.momentum) @ x
    if world_size() > 1:
        products = sum_over_ranks(products.double())
    state.rows1[:, d1:].mul_(update.momentum).add_(products[:KEPT])
    state.rows2[:, d2:].mul_(update.momentum).add_(products[KEPT:].roll(-d1, 1))
    return tuple(value / length for value in inner) if length > 0 else None


def _iterate(
    state: DavidsonState, s: Triple, shrinkage: float, variates, update: Update
) -> Triple | None:
    """Solution by iterations; None if it is not accurate enough."""
    s11, s12, s22 = s
    room = precision.tolerance(update.dtype)[1]
    first = Basis(s11, s12, shrinkage, state.rows1, room)
    second = Basis(s22, s12.mT, shrinkage, state.rows2, room)
    try:
        projection = Projection(first, second)
        found = projection.is_valid and _improve(
            projection, state.preconditioner, variates, update.dtype
        )
    except torch.linalg.LinAlgError:  # non-finite values
        return None
    if not found:
        return None
    tau, iterations = found
    state.rows1, state.rows2 = projection.ritz_vectors(KEPT)
    if update.updated and _is_stale(state, iterations, min(s12.shape)):
        _refresh(state, s, shrinkage, tau)
    a, b = state.rows1[:1, : len(s11)], state.rows2[:1, : len(s22)]
    return torch.tensor([min(tau, 1.0)], dtype=torch.float64), a.clone(), b.clone()


def _improve(
    projection: Projection, preconditioner: Preconditioner, variates, dtype: torch.dtype
) -> tuple[float, int] | None:
    """tau and the number of iterations; None if they do not converge."""
    accuracy, most = precision.tolerance(dtype)
    tau, u, v = projection.solve()
    correct = Correction(preconditioner, projection.sides[0].cross, tau, variates, accuracy)
    for iteration in range(most + 1):
        x, y, error = correct(*projection.residuals(tau, u, v))
        if not error < math.inf:
            return None
        if iteration > 0 and error <= accuracy:
            change, rotation = projection.second_order_change(tau, u, v, x, y)
            error = (error**2 + change / correct.sine**2) ** 0.5 + rotation
            if error <= accuracy:
                return tau, iteration
        if iteration < most:
            projection.extend(x, y)
            tau, u, v = projection.solve()
    return None


def _solve_exactly(state: DavidsonState, s: Triple, shrinkage: float) -> Triple:
    """Solution by decompositions in float64, from which the next step can iterate."""
    s11, s12, s22 = (block.double() for block in s)
    (l1,), (l2,) = factors(s11[None], s22[None], shrinkage)
    u, values, v = leading_triples(whiten(l1, s12, l2), KEPT)
    tau, a, b = values[:1].clamp(max=1.0), unwhiten(l1, u).mT, unwhiten(l2, v).mT
    if not precision.is_related(tau):
        return torch.zeros_like(tau), torch.zeros_like(a[:1]), torch.zeros_like(b[:1])
    if _refresh(state, s, shrinkage, float(tau)):
        state.rows1 = torch.cat([a, a @ s11, a @ s12], 1)
        state.rows2 = torch.cat([b, b @ s22, b @ s12.mT], 1)
    return tau, a[:1], b[:1]


def _is_stale(state: DavidsonState, iterations: int, width: int) -> bool:
    """True when the stale preconditioner has cost as many iterations as a refresh."""
    _, extra, fewest = state.counts.tolist()
    fewest = min(fewest, iterations)
    extra += iterations - fewest
    state.counts[1], state.counts[2] = extra, fewest
    return extra >= REFRESH_COST * width


def _refresh(state: DavidsonState, s: Triple, shrinkage: float, tau: float) -> bool:
    """Compute a new preconditioner; returns False if that fails and the stale one stays."""
    state.counts[1], state.counts[2] = 0, torch.iinfo(torch.int64).max
    if found := shift_inverted(*s, shrinkage, tau):
        state.preconditioner = found
    return found is not None
