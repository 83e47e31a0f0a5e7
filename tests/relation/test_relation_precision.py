"""Wide pairs on a CPU: the precision of their covariances."""

import copy

import pytest
import torch
from reference import ExactSolution, drifting, layer_of, on_host_only
from test_layer import gradients

pytestmark = on_host_only


def test_features_that_overlap_are_kept_in_float64():
    """Neighbours explain little of a feature's variance, all others together nearly all of it."""
    g = torch.Generator().manual_seed(0)
    layer, exact = layer_of(0.9, start="identity"), ExactSolution(112, 100, 0.9)
    for step in range(120):
        x = torch.randn(128, 115, generator=g)
        y = x[:, :103] + torch.randn(128, 103, generator=g)
        for _ in range(3):
            x, y = x[:, 1:] + x[:, :-1], y[:, 1:] + y[:, :-1]
        f1, f2 = x.clone().requires_grad_(), y.clone().requires_grad_()
        exact.update(f1, f2)
        found = gradients(layer(f1, f2), f1, f2)
        values, expected = exact.solve()
        if step >= 100 and values[0] - values[1] >= 1e-3:
            for ours, theirs in zip(found, expected, strict=True):
                assert (ours - theirs).norm() <= 2e-3 * theirs.norm()
    assert layer.groups[0].covariance.dtype == torch.float64


@pytest.mark.parametrize(("d1", "d2"), [(128, 112), (190, 20)])
def test_features_of_low_rank_are_kept_in_float64(d1, d2):
    """As of a widening linear layer; in float32 rounding would dominate the gradient."""
    g = torch.Generator().manual_seed(0)
    wide1, wide2 = torch.randn(30, d1, generator=g), torch.randn(30, d2, generator=g)
    layer, other = (layer_of(0.9, start="identity") for _ in range(2))
    exact = ExactSolution(d1, d2, 0.9)
    for step in range(140):
        x = torch.randn(128, 30, generator=g).relu()
        y = (x + torch.randn(128, 30, generator=g)).relu()
        f1, f2 = (x @ wide1).requires_grad_(), (y @ wide2).requires_grad_()
        exact.update(f1, f2)
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
    """With features of lower rank, after steps with many iterations."""
    g = torch.Generator().manual_seed(1)
    low1, low2 = (torch.randn(40, d, generator=g, dtype=torch.float64) for d in (100, 160))
    layer, exact = layer_of(0.7, start="identity"), ExactSolution(100, 160, 0.7)
    compared = 0
    for f1, f2 in drifting(45, 128, 40, 40, torch.float64, seed=1):
        f1, f2 = (f1.detach() @ low1).requires_grad_(), (f2.detach() @ low2).requires_grad_()
        exact.update(f1, f2)
        found = gradients(layer(f1, f2), f1, f2)
        values, expected = exact.solve()
        if values[0] - values[1] >= 1e-3:
            compared += 1
            for ours, theirs in zip(found, expected, strict=True):
                assert (ours - theirs).norm() <= 2e-9 * theirs.norm()
    assert compared > 30
    assert layer.exact_rate < 0.5


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
    """Directions of small variance can still be related."""
    layer = layer_of(0.97, start="identity")
    exact = ExactSolution(128, 128, 0.97)
    for step, (f1, f2) in enumerate(drifting(150, 128, 128, 128, torch.float32)):
        g = torch.Generator().manual_seed(step)
        for f in (f1, f2) if step >= 60 else ():
            with torch.no_grad():
                f += scale * 11 * torch.randn(128, 1, generator=g)
        keep = torch.ones(128, dtype=torch.bool)
        keep[0] = not masked
        exact.update(f1[keep], f2[keep])
        tau = layer(f1, f2, mask=keep)
        if step in (59, 60):  # at once, between two checks of the covariances
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


@pytest.mark.parametrize("scale", [1e-18, 1e-28])
def test_wide_features_whose_squares_float32_loses(scale):
    layer = layer_of(0.0, start="identity")
    for step, (f1, f2) in enumerate(drifting(6, 64, 100, 110, torch.float32)):
        shrink = scale if step > 2 else 1
        f1, f2 = ((shrink * f).detach().requires_grad_() for f in (f1, f2))
        tau = layer(f1, f2)
        assert all(g.isfinite().all() for g in gradients(tau, f1, f2))
    assert layer.groups[0].covariance.dtype == torch.float64


def dominated(seed):
    g = torch.Generator().manual_seed(seed)
    f1, f2 = (torch.randn(64, d, generator=g) for d in (128, 100))
    return f1 + 300 * torch.randn(64, 1, generator=g), f2


def test_a_batch_left_out_leaves_the_precision_of_the_covariances_too():
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


def test_covariances_take_the_precision_of_the_features():
    layer = layer_of(0.9, start="identity")
    for f1, f2 in drifting(3, 64, 128, 100, torch.float32):
        layer(f1, f2)
    assert layer.groups[0].covariance.dtype == torch.float32
    for f1, f2 in drifting(2, 64, 128, 100, torch.float64):
        tau = layer(f1, f2)
        tau.mul_(2)
    assert layer.groups[0].covariance.dtype == torch.float64
