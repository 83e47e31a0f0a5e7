"""Wide pairs on a CPU: solved from where they were a step ago, as exactly as from nothing."""

import copy
import math

import pytest
import torch
from reference import layer_of, on_host_only, shrunk
from test_layer import gradients

from trn_plugin.relation.solvers import davidson
from trn_plugin.relation.solvers._preconditioner import Correction, Preconditioner

pytestmark = on_host_only


def drifting(steps, n, d1, d2, dtype, seed=0, close=None, noise=1.0):
    """Features of two tails of a network that changes from step to step.

    ``close`` sets the two largest correlations, so that they nearly touch; with little ``noise``
    all 24 are near 1, as of the tails of a trained trunk.
    """
    g = torch.Generator().manual_seed(seed)
    w1, w2 = (torch.randn(24, d, generator=g, dtype=torch.float64) for d in (d1, d2))
    for _ in range(steps):
        w1 += 0.02 * torch.randn(24, d1, generator=g, dtype=torch.float64)
        w2 += 0.02 * torch.randn(24, d2, generator=g, dtype=torch.float64)
        common = torch.randn(n, 24, generator=g, dtype=torch.float64)
        f1 = common @ w1 + noise * torch.randn(n, d1, generator=g, dtype=torch.float64)
        f2 = common @ w2 + 2 * noise * torch.randn(n, d2, generator=g, dtype=torch.float64)
        if close:
            f1[:, :2], f2[:, :2] = 30 * common[:, :2], 30 * common[:, :2]
            apart = torch.randn(n, 2, generator=g, dtype=torch.float64)
            f2[:, :2] += 30 * apart * torch.tensor([1 / c**2 - 1 for c in close]).double().sqrt()
        yield f1.to(dtype).requires_grad_(), f2.to(dtype).requires_grad_()


class Exact:
    """The running moments in float64, and what is exact of them, after each batch."""

    def __init__(self, d1, d2, momentum, shrinkage=1e-5):
        self.momentum, self.shrinkage = momentum, shrinkage
        self.s11, self.s22 = torch.eye(d1).double(), torch.eye(d2).double()
        self.s12 = torch.zeros(d1, d2).double()

    def take_in(self, f1, f2):
        x1, x2 = (f.detach().double() - f.detach().double().mean(0) for f in (f1, f2))
        products = (self.s11, x1.T @ x1), (self.s12, x1.T @ x2), (self.s22, x2.T @ x2)
        for s, c in products:
            s.mul_(self.momentum).add_(c, alpha=1 - self.momentum)
        self.batch = x1, x2

    def solve(self):
        """Values by falling size, and the gradients of the largest."""
        l1, l2 = (torch.linalg.cholesky(shrunk(s, self.shrinkage)) for s in (self.s11, self.s22))
        k = torch.linalg.solve_triangular(l1, self.s12, upper=False)
        u, s, vh = torch.linalg.svd(torch.linalg.solve_triangular(l2, k.T, upper=False).T)
        a = torch.linalg.solve_triangular(l1.T, u[:, :1], upper=True)
        b = torch.linalg.solve_triangular(l2.T, vh[:1].T, upper=True)
        x1, x2 = self.batch
        p, q = x1 @ a, x2 @ b
        g1 = (q - s[0] * p) @ a.T - s[0] * self.shrinkage * a.square().mean() * x1
        g2 = (p - s[0] * q) @ b.T - s[0] * self.shrinkage * b.square().mean() * x2
        return s, ((1 - self.momentum) * g1, (1 - self.momentum) * g2)


@pytest.mark.parametrize(
    ("dtype", "tau_error", "gradient_error"),
    [(torch.float32, 1e-5, 2e-3), (torch.float64, 1e-8, 1e-8)],
)
@pytest.mark.parametrize(
    ("d1", "d2", "close", "noise", "momentum"),
    [
        (128, 128, None, 1, 0.9),
        (150, 100, (0.9557, 0.9575), 1, 0.9),
        (96, 720, None, 3, 0.99),  # more numbers than NumPy multiplies in one thread
    ],
)
def test_every_step_is_as_exact_as_promised(
    dtype, tau_error, gradient_error, d1, d2, close, noise, momentum
):
    layer = layer_of(momentum, start="identity")
    exact = Exact(d1, d2, momentum)
    compared = 0
    for f1, f2 in drifting(30, 256, d1, d2, dtype, close=close, noise=noise):
        exact.take_in(f1, f2)
        tau = layer(f1, f2)
        values, expected = exact.solve()
        assert abs(tau.item() - values[0].item()) <= tau_error
        if values[0] - values[1] >= 1e-3:
            compared += 1
            for ours, theirs in zip(gradients(tau, f1, f2), expected, strict=True):
                assert (ours - theirs).norm() <= gradient_error * theirs.norm()
    assert compared > 10
    assert layer.exact_rate < (0.5 if dtype == torch.float32 else 1)


@pytest.mark.parametrize(
    ("dtype", "gradient_error"), [(torch.float32, 2e-3), (torch.float64, 1e-8)]
)
def test_many_values_near_one_are_told_apart_without_the_exact_route(dtype, gradient_error):
    """Long after the start, when nothing of the identity is left in the moments."""
    layer = layer_of(0.97, start="identity")
    reference = Exact(112, 112, 0.97)
    for step, (f1, f2) in enumerate(drifting(260, 128, 112, 112, dtype, noise=0.1)):
        reference.take_in(f1, f2)
        tau = layer(f1, f2)
        if step == 229:
            before = layer.steps.clone()
        if step > 229:
            values, expected = reference.solve()
            assert values[7] > 0.99
            assert abs(tau.item() - values[0].item()) <= 1e-6
            for ours, theirs in zip(gradients(tau, f1, f2), expected, strict=True):
                assert (ours - theirs).norm() <= gradient_error * theirs.norm()
    solved, exact = (layer.steps - before).tolist()
    assert exact <= solved / 2


def test_features_that_overlap_are_kept_in_float64():
    """Each leaves much to the next, and all others next to nothing to it."""
    g = torch.Generator().manual_seed(0)
    layer, exact = layer_of(0.9, start="identity"), Exact(112, 100, 0.9)
    for step in range(120):
        x = torch.randn(128, 115, generator=g)
        y = x[:, :103] + torch.randn(128, 103, generator=g)
        for _ in range(3):
            x, y = x[:, 1:] + x[:, :-1], y[:, 1:] + y[:, :-1]
        f1, f2 = x.clone().requires_grad_(), y.clone().requires_grad_()
        exact.take_in(f1, f2)
        found = gradients(layer(f1, f2), f1, f2)
        values, expected = exact.solve()
        if step >= 100 and values[0] - values[1] >= 1e-3:
            for ours, theirs in zip(found, expected, strict=True):
                assert (ours - theirs).norm() <= 2e-3 * theirs.norm()
    assert layer.groups[0].covariance.dtype == torch.float64


@pytest.mark.parametrize(("d1", "d2"), [(128, 112), (190, 20)])
def test_features_of_low_rank_are_kept_in_float64(d1, d2):
    """As of a linear layer that widens; else rounding has a share of the gradient."""
    g = torch.Generator().manual_seed(0)
    wide1, wide2 = torch.randn(30, d1, generator=g), torch.randn(30, d2, generator=g)
    layer, other, exact = (
        layer_of(0.9, start="identity"),
        layer_of(0.9, start="identity"),
        Exact(d1, d2, 0.9),
    )
    for step in range(140):
        x = torch.randn(128, 30, generator=g).relu()
        y = (x + torch.randn(128, 30, generator=g)).relu()
        f1, f2 = (x @ wide1).requires_grad_(), (y @ wide2).requires_grad_()
        exact.take_in(f1, f2)
        found = gradients(layer(f1, f2), f1, f2)
        with torch.no_grad():
            other(f1 + torch.randn(128, d1, generator=g), f2 + torch.randn(128, d2, generator=g))
        if step >= 130:
            values, expected = exact.solve()
            assert values[0] - values[1] >= 1e-3
            for ours, theirs in zip(found, expected, strict=True):
                assert (ours - theirs).norm() <= 2e-3 * theirs.norm()
    assert layer.groups[0].covariance.dtype == torch.float64
    assert other.groups[0].covariance.dtype == torch.float32


def test_backward_within_autocast_is_that_without():
    layer = layer_of(0.9, start="identity")
    for f1, f2 in drifting(5, 128, 100, 120, torch.float32):
        tau = layer(f1, f2)
        expected = torch.autograd.grad(tau, (f1, f2), retain_graph=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = gradients(tau, f1, f2)
        assert all(map(torch.equal, found, expected))
    assert layer.groups[0].covariance.dtype == torch.float32


def test_directions_without_variance_stay_out_of_the_gradient():
    """Of features of lower rank, after steps that take many iterations."""
    g = torch.Generator().manual_seed(1)
    low1, low2 = (torch.randn(40, d, generator=g, dtype=torch.float64) for d in (100, 160))
    layer, exact = layer_of(0.7, start="identity"), Exact(100, 160, 0.7)
    compared = 0
    for f1, f2 in drifting(45, 128, 40, 40, torch.float64, seed=1):
        f1, f2 = (f1.detach() @ low1).requires_grad_(), (f2.detach() @ low2).requires_grad_()
        exact.take_in(f1, f2)
        found = gradients(layer(f1, f2), f1, f2)
        values, expected = exact.solve()
        if values[0] - values[1] >= 1e-3:
            compared += 1
            for ours, theirs in zip(found, expected, strict=True):
                assert (ours - theirs).norm() <= 2e-9 * theirs.norm()
    assert compared > 30
    assert layer.exact_rate < 0.5


def test_a_batch_left_out_right_after_a_restore_changes_nothing():
    layer, restored = (
        layer_of(0.9, start="identity"),
        layer_of(0.9, start="identity"),
    )
    for step, (f1, f2) in enumerate(drifting(20, 64, 112, 100, torch.float32)):
        if step == 10:
            assert layer.groups[0].covariance.dtype == torch.float32
            restored.load_state_dict(layer.state_dict())
        mask = torch.full((64,), step != 10)
        expected = gradients(layer(f1, f2, mask=mask), f1, f2)
        if step >= 10:
            found = gradients(restored(f1, f2, mask=mask), f1, f2)
            assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_restored_layer_goes_on_to_the_bit(dtype):
    layer, restored = (
        layer_of(0.9, start="identity"),
        layer_of(0.9, start="identity"),
    )
    for step, (f1, f2) in enumerate(drifting(12, 64, 128, 100, dtype)):
        tau = layer(f1, f2)
        if step == 5:
            restored.load_state_dict(layer.state_dict())
        if step > 5:
            again = restored(f1, f2)
            assert torch.equal(again, tau)
            for ours, theirs in zip(gradients(tau, f1, f2), gradients(again, f1, f2), strict=True):
                assert torch.equal(ours, theirs)


def test_features_of_another_precision_go_on_from_the_same_moments():
    layer = layer_of(0.9, start="identity")
    *steps, (f1, f2) = drifting(6, 64, 128, 100, torch.float64)
    for pair in steps:
        layer(*(f.float() for f in pair))
    other = copy.deepcopy(layer)
    assert layer(f1, f2).item() == pytest.approx(other(f1.float(), f2.float()).item(), abs=1e-6)


def test_a_relation_that_appears_in_one_step_is_found():
    """A few samples far away that both tasks share: a new largest value out of nothing."""
    layer = layer_of(0.9, start="identity")
    steps = list(drifting(20, 64, 128, 128, torch.float64))
    for f1, f2 in steps[:-1]:
        layer(f1, f2)
    cold = copy.deepcopy(layer)
    cold.reset_solvers()
    f1, f2 = (f.detach().clone() for f in steps[-1])
    g = torch.Generator().manual_seed(5)
    for f in (f1, f2):
        f[3] += 1e3 * torch.randn(128, generator=g).double()
    assert layer(f1, f2).item() == pytest.approx(cold(f1, f2).item(), abs=1e-10)


def test_steps_without_samples_keep_tau_and_need_no_exact_solution():
    layer = layer_of(0.9, start="identity")
    for f1, f2 in drifting(4, 64, 128, 128, torch.float64):
        tau = layer(f1, f2)
    before = layer.steps.clone()
    for _ in range(5):
        again = layer(f1, f2, mask=torch.zeros(64, dtype=torch.bool))
        assert again.item() == pytest.approx(tau.item(), abs=1e-12)
    assert (layer.steps - before).tolist() == [5, 0]


def test_wide_features_that_are_not_finite_leave_all_state_as_it_was():
    layer = layer_of(0.9, start="identity")
    for f1, f2 in drifting(4, 64, 128, 100, torch.float32):
        layer(f1, f2)
    before = copy.deepcopy(layer.state_dict())
    f1 = f1.detach().clone()
    f1[3, 5] = float("nan")
    with pytest.raises(ValueError, match="f1"):
        layer(f1, f2)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("scale", "masked", "dtype"),
    [
        (0.4, False, torch.float32),  # 0.45 of a side's trace
        (1, False, torch.float64),  # 0.8
        (10, False, torch.float64),  # 0.998
        (30, False, torch.float64),
        (30, True, torch.float64),
    ],
)
def test_one_direction_may_hold_nearly_all_variance(scale, masked, dtype):
    """What is small beside it is related nevertheless."""
    layer = layer_of(0.97, start="identity")
    exact = Exact(128, 128, 0.97)
    for step, (f1, f2) in enumerate(drifting(150, 128, 128, 128, torch.float32)):
        g = torch.Generator().manual_seed(step)
        for f in (f1, f2) if step >= 60 else ():
            with torch.no_grad():
                f += scale * 11 * torch.randn(128, 1, generator=g)
        keep = torch.ones(128, dtype=torch.bool)
        keep[0] = not masked
        exact.take_in(f1[keep], f2[keep])
        tau = layer(f1, f2, mask=keep)
        if step in (59, 60):  # at once, between two looks at the moments
            expected = torch.float32 if step == 59 else dtype
            assert layer.groups[0].covariance.dtype == expected
        values, expected = exact.solve()
        assert abs(tau.item() - values[0].item()) <= 1e-5
        if step > 20 and values[0] - values[1] >= 1e-3:
            for ours, theirs in zip(gradients(tau, f1, f2), expected, strict=True):
                assert (ours[keep] - theirs).norm() <= 2e-3 * theirs.norm()
    assert layer.exact_rate < 0.5


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_wide_features_of_any_scale_stay_finite(scale, dtype):
    layer = layer_of(0.9, start="identity")
    for f1, f2 in drifting(12, 32, 100, 120, dtype):
        f1, f2 = (scale * f1.detach().relu()).requires_grad_(), f2.detach().requires_grad_()
        with torch.no_grad():
            f1[:, ::3] = 0
        tau = layer(f1, f2)
        assert 0 <= tau <= 1
        assert all(torch.isfinite(g).all() for g in gradients(tau, f1, f2))


def test_wide_tasks_without_any_relation_or_variance():
    layer = layer_of(0.9, start="identity")
    for f1, _ in drifting(4, 32, 100, 100, torch.float32):
        tau = layer(f1, torch.zeros(32, 100))
        assert tau == 0
        assert not gradients(tau, f1)[0].any()


def test_moments_of_another_device_type_or_version_load_here():
    layer = layer_of(0.9, start="identity")
    for f1, f2 in drifting(3, 32, 100, 100, torch.float32):
        layer(f1, f2)
    state = copy.deepcopy(layer.state_dict())
    empty = {**state, "_extra_state": torch.zeros(0, dtype=torch.uint8)}
    absent = {k: v for k, v in state.items() if k != "_extra_state"}
    buffers = absent | {"warm.0.inverse1": torch.ones(100, 100)}
    expected = layer(f1, f2).item()
    for written in (empty, absent, buffers):
        restored = layer_of(0.9, start="identity")
        restored.load_state_dict(written)
        assert restored(f1, f2).item() == pytest.approx(expected, abs=1e-6)
        assert restored.steps.tolist()[1] == layer.steps.tolist()[1] + 1  # solved exactly


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_corrections_follow_the_moments(dtype):
    """They are made anew, and far more often than a step is solved exactly."""
    layer = layer_of(0.97, start="identity")
    made, exact = [], []
    for step, (f1, f2) in enumerate(drifting(60, 256, 264, 270, dtype)):
        layer(f1, f2)
        preconditioner = layer._states[0].preconditioner
        if step >= 20 and not (made and torch.equal(preconditioner.inverse1, made[-1].inverse1)):
            made.append(Preconditioner(*(part.clone() for part in preconditioner)))
            exact.append(int(layer.steps[1]))
            s = layer.groups[0].covariance[0].double().clone()
    assert len(made) >= 4
    assert exact[-1] == exact[0]

    own = [shrunk(s[at, at], 1e-5) for at in (slice(0, 264), slice(264, None))]
    cross = s[:264, 264:]
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(264, generator=g).double(), torch.randn(270, generator=g).double()
    lacks = []
    for basis in (made[0], made[-1]):
        t = float(basis.shift)
        r1, r2 = t * own[0] @ a - cross @ b, t * own[1] @ b - cross.T @ a
        x, y, _ = Correction(basis, cross, t, None, 0.0)(r1.float(), r2.float())
        off = x - a, y - b
        lacks.append(sum(e @ m @ e for e, m in zip(off, own, strict=True)))
    whole = a @ own[0] @ a + b @ own[1] @ b
    assert lacks[1] < whole / 100
    assert lacks[0] > 10 * whole


def test_corrections_that_cannot_be_renewed_stay(monkeypatch):
    layer = layer_of(0.97, start="identity")
    *steps, last, (f1, f2) = drifting(20, 256, 264, 270, torch.float32)
    for pair in steps:
        layer(*pair)
    state = layer._states[0]
    inverse, before = state.preconditioner.inverse1.clone(), layer.steps.clone()
    monkeypatch.setattr(davidson, "shift_inverted", lambda *args: None)
    state.counts[1] = 10**6
    layer(*last)
    assert state.counts[1] == 0
    assert torch.equal(state.preconditioner.inverse1, inverse)
    cold = copy.deepcopy(layer)
    cold.reset_solvers()
    assert layer(f1, f2).item() == pytest.approx(cold(f1, f2).item(), abs=1e-6)
    assert (layer.steps - before).tolist() == [2, 0]
    assert not cold._states[0].counts[0]


@pytest.mark.parametrize("much", [(math.inf, 0.0), (0.0, math.inf)])
def test_what_corrections_bring_with_them_counts(much, monkeypatch):
    layer = layer_of(0.9, start="identity")
    *steps, last = drifting(8, 64, 128, 100, torch.float32)
    for pair in steps:
        layer(*pair)
    before = layer.steps.clone()
    monkeypatch.setattr(davidson.Projection, "second_order_change", lambda *args: much)
    layer(*last)
    assert (layer.steps - before).tolist() == [1, 1]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-3), (torch.float64, 1e-8)])
@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 1), (0.9, 2), (0.99, 1)])
def test_batches_whose_variates_are_closer_than_the_moments_say(dtype, bound, momentum, decay):
    """Nearly the same features of both tasks, while the moments still hold the identity."""
    g = torch.Generator().manual_seed(decay)
    d = 128
    mix, other = (torch.linalg.qr(torch.randn(d, d, generator=g).double())[0] for _ in range(2))
    mix = 0.1 * mix * torch.arange(1, d + 1).double() ** (-decay / 2)
    layer, exact = layer_of(momentum, start="identity"), Exact(d, d, momentum)
    compared = 0
    for step in range(40):
        mix += 0.003 * torch.randn(d, d, generator=g) * mix.norm() / d
        f1 = torch.randn(128, d, generator=g).double() @ mix.T
        f2 = (f1 + 0.01 * f1.std() * torch.randn(128, d, generator=g)) @ other
        f1, f2 = (f.to(dtype).requires_grad_() for f in (f1, f2))
        exact.take_in(f1, f2)
        found = gradients(layer(f1, f2), f1, f2)
        values, expected = exact.solve()
        if step > 3 and values[0] - values[1] >= 1e-3:
            compared += 1
            for ours, theirs in zip(found, expected, strict=True):
                assert (ours - theirs).norm() <= bound * theirs.norm()
    assert compared > 10


@pytest.mark.parametrize("scale", [1e-18, 1e-28])
def test_wide_features_whose_squares_float32_loses(scale):
    layer = layer_of(0.0, start="identity")
    for step, (f1, f2) in enumerate(drifting(6, 64, 100, 110, torch.float32)):
        shrink = scale if step > 2 else 1
        f1, f2 = ((shrink * f).detach().requires_grad_() for f in (f1, f2))
        tau = layer(f1, f2)
        assert all(g.isfinite().all() for g in gradients(tau, f1, f2))
    assert layer.groups[0].covariance.dtype == torch.float64


def test_a_batch_left_out_costs_the_corrections_nothing():
    layer = layer_of(0.9, start="identity")
    for f1, f2 in drifting(8, 64, 128, 100, torch.float32):
        layer(f1, f2)
    before = layer._states[0].counts.clone()
    for _ in range(3):
        layer(f1, f2, mask=torch.zeros(64, dtype=torch.bool))
    assert torch.equal(layer._states[0].counts, before)


def test_batches_of_two_whose_variates_nearly_touch():
    """Their gradient may be next to nothing, and what the vectors lack as large as ever."""
    layer = layer_of(0.99, start="identity")
    exact = Exact(128, 100, 0.99)
    lengths = []
    for f1, f2 in drifting(60, 2, 128, 100, torch.float32):
        exact.take_in(f1, f2)
        values, expected = exact.solve()
        if values[0] - values[1] >= 1e-3:
            found = torch.cat([g.double() for g in gradients(layer(f1, f2), f1, f2)], 1)
            expected = torch.cat(expected, 1)
            lengths.append(expected.norm())
            assert (found - expected).norm() <= 2e-3 * expected.norm()
        else:
            layer(f1, f2)
    assert min(lengths) < max(lengths) / 20


def dominated(seed):
    g = torch.Generator().manual_seed(seed)
    f1, f2 = (torch.randn(64, d, generator=g) for d in (128, 100))
    return f1 + 300 * torch.randn(64, 1, generator=g), f2


def test_a_batch_left_out_leaves_the_precision_of_the_moments_too():
    layer = layer_of(0.9, start="identity")
    for seed in range(3):
        layer(*dominated(seed))
    before = copy.deepcopy(layer.state_dict())
    assert layer.groups[0].covariance.dtype == torch.float64
    f1, f2 = (torch.randn(64, d) for d in (128, 100))
    layer(f1, f2, mask=torch.zeros(64, dtype=torch.bool))
    layer(f1[:1], f2[:1])
    layer(f1[:0], f2[:0])
    f1[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"^f1: "):
        layer(f1, f2)
    for name, value in layer.state_dict().items():
        if "groups" in name:
            assert value.dtype == before[name].dtype
            assert torch.equal(value, before[name]), name


def test_moments_take_the_precision_of_the_features():
    layer = layer_of(0.9, start="identity")
    for f1, f2 in drifting(3, 64, 128, 100, torch.float32):
        layer(f1, f2)
    assert layer.groups[0].covariance.dtype == torch.float32
    for f1, f2 in drifting(2, 64, 128, 100, torch.float64):
        tau = layer(f1, f2)
        tau.mul_(2)
    assert layer.groups[0].covariance.dtype == torch.float64
