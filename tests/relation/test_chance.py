import math

import pytest
import torch
from test_layer import gradients

from trn_plugin.relation import TaskRelationLayer, corrected_similarity, task_similarity


def sample(n, d, r, g):
    """Features (n, d) of two tasks whose largest true canonical correlation is r."""
    f1 = torch.randn(n, d, generator=g).double()
    f2 = torch.randn(n, d, generator=g).double()
    f2[:, 0] = r * f1[:, 0] + math.sqrt(1 - r**2) * f2[:, 0]
    return f1, f2


@pytest.mark.parametrize(("n", "d"), [(400, 20), (300, 40)])
@pytest.mark.parametrize("r", [0.0, 0.6, 0.9])
def test_chance_is_removed_and_a_true_correlation_is_kept(n, d, r):
    g = torch.Generator().manual_seed(0)
    raw = torch.stack([task_similarity(*sample(n, d, r, g)) for _ in range(40)])
    corrected = corrected_similarity(raw, n, d, d)
    if r == 0:
        assert raw.min() > 0.35
        assert (corrected == 0).double().mean() >= 0.85
    else:
        assert abs(corrected.mean() - r) < 0.03
        assert abs(raw.mean() - r) > 2 * abs(corrected.mean() - r)


def test_running_features_are_corrected_at_their_effective_sample_size():
    g = torch.Generator().manual_seed(1)
    taus = {}
    for r in (0.0, 0.7):
        raw = TaskRelationLayer(0.95)
        layer = TaskRelationLayer(0.95, correct_chance=True)
        rows = []
        for step in range(260):
            pair = sample(32, 30, r, g)
            row = raw(*pair).item(), layer(*pair).item()
            rows += [row] if step >= 160 else []
        taus[r] = torch.tensor(rows).mean(0)
    assert taus[0.0][0] > 0.25
    assert taus[0.0][1] < 0.1
    assert abs(taus[0.7][1] - 0.7) < 0.03
    assert taus[0.7][0] > taus[0.7][1]


def test_with_many_samples_nothing_is_left_to_correct():
    tau = torch.tensor([0.1, 0.5, 0.99]).double()
    assert torch.allclose(corrected_similarity(tau, 1e8, 5, 3), tau, atol=1e-5)


def test_rises_with_tau_and_stays_in_range():
    tau = torch.linspace(0, 1, 1001).double()
    corrected = corrected_similarity(tau, 500, 30, 10)
    assert (corrected.diff() >= 0).all()
    assert corrected[0] == 0
    assert corrected[-1] == pytest.approx(1.0)
    assert (corrected <= tau + 1e-12).all()


def test_gradient_is_right_and_zero_below_chance():
    tau = torch.tensor([0.05, 0.6, 0.95]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: corrected_similarity(t, 500, 30, 10), tau)
    (g,) = gradients(corrected_similarity(tau, 500, 30, 10).sum(), tau)
    assert g[0] == 0
    assert (g[1:] > 0).all()


def test_too_few_samples_give_nan():
    assert corrected_similarity(torch.tensor(0.9), 20, 10, 9).isnan()
    tau = torch.tensor(0.9, requires_grad=True)
    (gradient,) = gradients(corrected_similarity(tau, 20, 10, 9), tau)
    assert gradient == 0


@pytest.mark.parametrize("d", [12, 100])
def test_a_layer_with_too_few_samples_gives_0_and_no_gradient(d):
    layer = TaskRelationLayer(0.9, correct_chance=True, min_samples_per_dim=0, dims=(d, d))
    assert layer.similarity() == 0
    for n in (0, 1, 2, 8):
        f1, f2 = (torch.randn(n, d, requires_grad=True) for _ in range(2))
        tau = layer(f1, f2)
        assert tau == 0
        assert not any(g.any() for g in gradients(tau, f1, f2))
