"""Davidson corrections: the equations that they solve, and their error estimate."""

import math

import pytest
import torch
from reference import shrunk

from trn_plugin.relation.solvers._preconditioner import Correction, shift_inverted
from trn_plugin.relation.solvers._projection import Basis, Projection

EPSILON = 1e-5


def covariances(d1, d2, scale1=1.0, scale2=1.0, correlations=(0.9, 0.7, 0.5), seed=0):
    """S11, S12, S22 float64 with these canonical correlations; the others are 0."""
    g = torch.Generator().manual_seed(seed)
    m1, m2 = (torch.randn(d, d, generator=g).double() + 4 * torch.eye(d) for d in (d1, d2))
    between = torch.zeros(d1, d2).double()
    between.diagonal()[: len(correlations)] = torch.tensor(correlations).double()
    m1, m2 = scale1 * m1, scale2 * m2
    return m1 @ m1.T, m1 @ between @ m2.T, m2 @ m2.T


def canonical(s11, s12, s22):
    """Exact canonical correlations, and the vectors of both sides as rows."""
    l1, l2 = (torch.linalg.cholesky(shrunk(s, EPSILON)) for s in (s11, s22))
    u, s, vh = torch.linalg.svd(torch.linalg.inv(l1) @ s12 @ torch.linalg.inv(l2).T)
    return s, (torch.linalg.inv(l1).T @ u).T, (torch.linalg.inv(l2).T @ vh.T).T


def correction(found, s12, tau, accuracy, variates=None):
    return Correction(found, s12, tau, variates, accuracy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("scale1", "scale2"), [(1, 1), (1e6, 1e-5)])
def test_they_solve_the_shifted_equations(dtype, scale1, scale2):
    s11, s12, s22 = covariances(40, 30, scale1, scale2)
    tau = float(canonical(s11, s12, s22)[0][0])
    found = shift_inverted(*(s.to(dtype) for s in (s11, s12, s22)), EPSILON, tau)
    g = torch.Generator().manual_seed(1)
    r1 = scale1 * torch.randn(40, generator=g).double()
    r2 = scale2 * torch.randn(30, generator=g).double()
    x, y, missing = correction(found, s12, tau, math.inf)(r1.float(), r2.float())
    x, y, t = x.double(), y.double(), float(found[3])
    assert tau < t <= tau + 1e-3
    unshrunk = torch.cat([s12 @ y, s12.T @ x])
    own = torch.cat([shrunk(s11, EPSILON) @ x, shrunk(s22, EPSILON) @ y])
    units = torch.cat([torch.full_like(r1, scale1), torch.full_like(r2, scale2)])
    lacks = (t * own - unshrunk - torch.cat([r1, r2])) / units
    assert lacks.norm() < 1e-2 * (torch.cat([r1, r2]) / units).norm()

    first, second, between = x @ own[:40], y @ own[40:], x @ s12 @ y
    change = max(second + tau**2 * first, first + tau**2 * second) - 2 * tau * between
    assert missing == pytest.approx(float((change / (1 - tau**2)).sqrt()), rel=1e-2)


def test_no_preconditioner_beyond_float32():
    s11, s12, s22 = covariances(40, 30, 1e-21, 1)
    assert shift_inverted(s11, s12, s22, EPSILON, 0.9) is None
    assert shift_inverted(s11 * math.nan, s12, s22, EPSILON, 0.9) is None


@pytest.mark.parametrize("second", [0.898, 0.88, 0.8])
def test_other_pairs_are_coupled_the_more_the_nearer_they_are(second):
    """The estimate equals the change of the next solution in the larger space."""
    s11, s12, s22 = covariances(40, 30, correlations=(0.9, second, 0.7, 0.5))
    _, a, b = canonical(s11, s12, s22)
    g = torch.Generator().manual_seed(2)
    sides = []
    for own, start in ((a, 0), (b, 40)):
        # the second pair has a far larger error than the first
        off = torch.tensor([[1e-4], [0.02], [0.02]]) * torch.randn(3, len(own), generator=g)
        vectors = own[:3] + off.double() @ own
        s, cross = (s11, s12) if start == 0 else (s22, s12.T)
        rows = torch.cat([vectors, vectors @ s, vectors @ cross], 1)
        sides.append(Basis(s, cross, EPSILON, rows, 2))
    space = Projection(*sides)
    tau, u, v = space.solve()
    found = shift_inverted(s11, s12, s22, EPSILON, tau)
    x, y, _ = correction(found, s12, tau, math.inf)(*space.residuals(tau, u, v))
    change, rotation = space.second_order_change(tau, u, v, x, y)

    values = space.squares.sqrt()
    z = space.whitened @ space.right / values
    w = space.right
    space.extend(x, y)
    _, ours, theirs = space.solve()
    along = (z.T @ ours[:3] + w.T @ theirs[:3]) / 2
    expected = (along[:-1] / along[-1]) ** 2 @ (1 + tau**2 - 2 * tau * values[:-1])
    assert change == pytest.approx(float(expected), rel=0.1)

    combinations = (ours, theirs) if along[-1] > 0 else (-ours, -theirs)
    rotations = []
    for side, before, now in zip(space.sides, (u, v), combinations, strict=True):
        old = before @ side.vectors[:3]
        rotations.append(float((now @ side.vectors - old).norm() / old.norm()))
    assert rotation == pytest.approx(max(rotations), rel=0.1)
