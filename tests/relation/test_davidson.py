"""Wide pairs on a CPU: Davidson iterations are as exact as decompositions."""

import copy

import pytest
import torch
from reference import ExactSolution, drifting, layer_of, on_host_only
from test_layer import gradients

pytestmark = on_host_only


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
def test_every_step_is_as_exact_as_the_tolerance(
    dtype, tau_error, gradient_error, d1, d2, close, noise, momentum
):
    layer = layer_of(momentum, start="identity")
    exact = ExactSolution(d1, d2, momentum)
    compared = 0
    for f1, f2 in drifting(30, 256, d1, d2, dtype, close=close, noise=noise):
        exact.update(f1, f2)
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
def test_many_values_near_one_are_separated_without_the_exact_solver(dtype, gradient_error):
    """Long after the start, when the initial identity has decayed."""
    layer = layer_of(0.97, start="identity")
    reference = ExactSolution(112, 112, 0.97)
    for step, (f1, f2) in enumerate(drifting(260, 128, 112, 112, dtype, noise=0.1)):
        reference.update(f1, f2)
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


def test_a_batch_left_out_right_after_a_restore_changes_nothing():
    layer, restored = (layer_of(0.9, start="identity") for _ in range(2))
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
    layer, restored = (layer_of(0.9, start="identity") for _ in range(2))
    for step, (f1, f2) in enumerate(drifting(12, 64, 128, 100, dtype)):
        tau = layer(f1, f2)
        if step == 5:
            restored.load_state_dict(layer.state_dict())
        if step > 5:
            again = restored(f1, f2)
            assert torch.equal(again, tau)
            for ours, theirs in zip(gradients(tau, f1, f2), gradients(again, f1, f2), strict=True):
                assert torch.equal(ours, theirs)


def test_a_relation_that_appears_in_one_step_is_found():
    """A common outlier in both tasks gives a new largest correlation."""
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


def test_nonfinite_wide_features_change_no_state():
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


def test_wide_tasks_without_any_relation_or_variance():
    layer = layer_of(0.9, start="identity")
    for f1, _ in drifting(4, 32, 100, 100, torch.float32):
        tau = layer(f1, torch.zeros(32, 100))
        assert tau == 0
        assert not gradients(tau, f1)[0].any()


def test_covariances_of_another_device_type_or_version_load_here():
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
def test_the_preconditioner_follows_the_covariances(dtype):
    """A preconditioner that is never refreshed would make steps fall back to the exact solver."""
    layer = layer_of(0.97, start="identity")
    for step, (f1, f2) in enumerate(drifting(60, 256, 264, 270, dtype)):
        if step == 20:
            exact = int(layer.steps[1])
        layer(f1, f2)
    assert layer.steps[1] == exact


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-3), (torch.float64, 1e-8)])
@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 1), (0.9, 2), (0.99, 1)])
def test_batches_whose_variates_are_closer_than_the_covariances_say(dtype, bound, momentum, decay):
    """Nearly equal features in both tasks, while the covariances still contain the identity."""
    g = torch.Generator().manual_seed(decay)
    d = 128
    mix, other = (torch.linalg.qr(torch.randn(d, d, generator=g).double())[0] for _ in range(2))
    mix = 0.1 * mix * torch.arange(1, d + 1).double() ** (-decay / 2)
    layer, exact = layer_of(momentum, start="identity"), ExactSolution(d, d, momentum)
    compared = 0
    for step in range(40):
        mix += 0.003 * torch.randn(d, d, generator=g) * mix.norm() / d
        f1 = torch.randn(128, d, generator=g).double() @ mix.T
        f2 = (f1 + 0.01 * f1.std() * torch.randn(128, d, generator=g)) @ other
        f1, f2 = (f.to(dtype).requires_grad_() for f in (f1, f2))
        exact.update(f1, f2)
        found = gradients(layer(f1, f2), f1, f2)
        values, expected = exact.solve()
        if step > 3 and values[0] - values[1] >= 1e-3:
            compared += 1
            for ours, theirs in zip(found, expected, strict=True):
                assert (ours - theirs).norm() <= bound * theirs.norm()
    assert compared > 10


def test_batches_of_two_whose_variates_nearly_touch():
    """Their gradient may be tiny while the error of the vectors is not."""
    layer = layer_of(0.99, start="identity")
    exact = ExactSolution(128, 100, 0.99)
    lengths = []
    for f1, f2 in drifting(60, 2, 128, 100, torch.float32):
        exact.update(f1, f2)
        values, expected = exact.solve()
        if values[0] - values[1] >= 1e-3:
            found = torch.cat([g.double() for g in gradients(layer(f1, f2), f1, f2)], 1)
            expected = torch.cat(expected, 1)
            lengths.append(expected.norm())
            assert (found - expected).norm() <= 2e-3 * expected.norm()
        else:
            layer(f1, f2)
    assert min(lengths) < max(lengths) / 20
