"""tau is the similarity of the samples so far; it has a gradient once there are enough."""

import warnings

import pytest
import torch
from reference import layer_of
from test_layer import gradients

from trn_plugin.relation import TaskRelationLayer, task_similarity

DIMS = 4, 3


def stream(n, scale, seed):
    """Features of two tasks with a true canonical correlation of .6; (n, 4) and (n, 3)."""
    g = torch.Generator().manual_seed(seed)
    f1, f2 = (torch.randn(n, d, generator=g) for d in DIMS)
    f2[:, 0] = 0.6 * f1[:, 0] + 0.8 * f2[:, 0]
    return scale * f1 + 1, f2 / scale


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e4])
@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("batch", [32, 128])
def test_as_soon_as_it_arrives_tau_is_that_of_as_many_samples(scale, momentum, batch):
    """Within the central 99 % of offline tau on the same number of rows."""
    layer = TaskRelationLayer(momentum)
    arrivals = []
    for step in range(40):
        tau = layer(*stream(batch, scale, seed=1000 + step))
        if bool(layer.arrived):
            arrivals.append(tau.item())
        if len(arrivals) == 3:
            break
    samples = round(layer.effective_sample_size.item())
    assert samples >= 5 * sum(DIMS)
    offline = torch.stack([task_similarity(*stream(samples, 1, seed)) for seed in range(400)])
    low, high = offline.quantile(0.005), offline.quantile(0.995)
    assert low <= arrivals[-1] <= high


def test_the_gradient_is_0_until_tau_arrives():
    layer, eager = TaskRelationLayer(0.9), layer_of(0.9)
    for step in range(4):
        pair = [f.requires_grad_() for f in stream(16, 1, step)]
        tau, other = layer(*pair), eager(*pair)
        assert tau.item() == other.item()
        found, expected = gradients(tau, *pair), gradients(other, *pair)
        arrived = 16 * (step + 1) * 0.95 >= 35  # nearly: the weights fall by m
        assert bool(layer.arrived) == arrived
        for ours, theirs in zip(found, expected, strict=True):
            assert theirs.any()
            assert torch.equal(ours, theirs if arrived else torch.zeros_like(theirs))


def test_each_pair_arrives_by_its_own_samples():
    layer = TaskRelationLayer(0.9, dims=(2, 2, 2))
    g = torch.Generator().manual_seed(0)
    for step in range(3):
        mask = [torch.ones(16).bool(), torch.ones(16).bool(), torch.full((16,), step == 2)]
        features = [torch.randn(16, 2, generator=g, requires_grad=True) for _ in range(3)]
        tau = layer(*features, mask=mask)
    assert layer.batches.tolist() == [3, 1, 1]
    assert layer.arrived.tolist() == [True, False, False]
    assert not gradients(tau[1:].sum(), *features)[2].any()


def test_covariances_of_an_earlier_version_start_anew():
    layer = TaskRelationLayer(0.9)
    layer(*stream(64, 1, 0))
    state = {k: v for k, v in layer.state_dict().items() if "groups" not in k and "extra" not in k}
    state |= {
        "groups.0.moments": torch.eye(7)[None].double(),
        "groups.0.weight": torch.ones(1).double(),
        "groups.0.squared_weight": torch.ones(1).double(),
        "groups.0.is_precise": torch.tensor(True),
        "groups.0.updates": torch.tensor(3),
    }
    restored = TaskRelationLayer(0.9)
    with pytest.warns(UserWarning, match="start anew") as told:
        restored.load_state_dict(state)
    assert len(told) == 1
    assert restored.batches == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = TaskRelationLayer(0.9)(*stream(64, 1, 1))
        assert restored(*stream(64, 1, 1)).item() == expected.item()
