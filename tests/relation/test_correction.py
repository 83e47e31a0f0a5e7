"""Davidson corrections: the equations that they solve, and their error estimate."""

import math

import pytest
import torch
from reference import shrunk

from trn_plugin.relation.solvers._preconditioner import Correction, shift_inverted

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
def test_corrections_solve_the_shifted_equations(dtype, scale1, scale2):
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
