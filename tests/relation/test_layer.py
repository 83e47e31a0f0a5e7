import copy

import pytest
import torch
from reference import Algorithm1, layer_of, on_host_only

from trn_plugin.relation import task_similarity


def batches(steps, n, d1, d2, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    w1, w2 = (torch.randn(2, d, generator=g, dtype=torch.float64) for d in (d1, d2))
    for _ in range(steps):
        common = torch.randn(n, 2, generator=g, dtype=torch.float64)
        f1 = common @ w1 + torch.randn(n, d1, generator=g, dtype=torch.float64)
        f2 = common @ w2 + torch.randn(n, d2, generator=g, dtype=torch.float64)
        yield f1.to(dtype).requires_grad_(), f2.to(dtype).requires_grad_()


def gradients(tau, *features):
    return torch.autograd.grad(tau, features)


@pytest.mark.parametrize(
    ("dtype", "tau_error", "gradient_error"),
    [(torch.float64, 1e-10, 1e-8), (torch.float32, 1e-5, 2e-3)],
)
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
@pytest.mark.parametrize(("d1", "d2", "n"), [(1, 1, 16), (10, 5, 32), (16, 16, 64), (100, 70, 300)])
def test_every_step_equals_algorithm_1_and_its_autograd(
    momentum, d1, d2, n, dtype, tau_error, gradient_error
):
    layer = layer_of(momentum, shrinkage=1e-3, start="identity")
    reference = Algorithm1(momentum, 1e-3, d1, d2)
    for pair in batches(5, n, d1, d2):
        f1, f2 = (f.detach().to(dtype).requires_grad_() for f in pair)
        tau, expected = layer(f1, f2), reference(f1.double(), f2.double())
        assert abs(tau.item() - expected.item()) <= tau_error
        for ours, theirs in zip(gradients(tau, f1, f2), gradients(expected, f1, f2), strict=True):
            assert (ours - theirs).norm() <= gradient_error * theirs.norm()


@pytest.mark.parametrize("shrinkage", [1e-5, 0.1])
def test_gradcheck_of_one_step(shrinkage):
    layer = layer_of(0.9, shrinkage)
    *warm, (f1, f2) = batches(4, 12, 4, 3)
    for pair in warm:
        layer(*pair)

    def step(f1, f2):
        return copy.deepcopy(layer)(f1, f2)

    assert torch.autograd.gradcheck(step, (f1, f2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_step_with_more_features_than_samples(dtype):
    """Autograd through the SVD gives NaN here: equal singular values of S = I."""
    ((f1, f2),) = batches(1, 32, 512, 512, dtype=dtype)
    tau = layer_of()(f1, f2)
    assert 0 < tau < 1
    for g in gradients(tau, f1, f2):
        assert torch.isfinite(g).all()
        assert g.norm() > 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_dead_features_and_one_hot_labels(seed, scale):
    g = torch.Generator().manual_seed(seed)
    layer = layer_of(0.9)
    for _ in range(30):
        f1 = torch.randn(32, 24, generator=g).relu()
        f1[:, torch.randperm(24, generator=g)[:8]] = 0
        f1 = (f1 * scale).requires_grad_()
        labels = torch.randint(0, 5, (32,), generator=g)
        f2 = torch.nn.functional.one_hot(labels, 5).float().requires_grad_()
        tau = layer(f1, f2)
        assert 0 <= tau <= 1
        assert all(torch.isfinite(x).all() for x in gradients(tau, f1, f2))


def test_a_side_without_variance_has_no_relation_and_no_gradient():
    layer = layer_of(0.9)
    for f1, _ in batches(300, 16, 3, 2, dtype=torch.float32):
        f2 = torch.full((16, 2), 0.3, requires_grad=True)
        tau = layer(f1, f2)
        assert tau == 0
        assert not any(g.any() for g in gradients(tau, f1, f2))


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_samples_leave_the_covariances_alone(rows):
    layer = layer_of(0.9)
    for f1, f2 in batches(3, 16, 3, 2):
        tau = layer(f1, f2)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    mask = torch.arange(16) < rows
    again = layer(f1, f2, mask=mask)
    assert again.item() == tau.item()
    assert not any(g.any() for g in gradients(again, f1, f2))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    alone = layer(f1[:rows], f2[:rows])
    assert alone.item() == tau.item()


def test_samples_outside_the_mask_do_not_count():
    ((f1, f2),) = batches(1, 20, 3, 2)
    mask = torch.arange(20) % 3 != 0
    expected_layer, layer = layer_of(0.9), layer_of(0.9)
    expected = expected_layer(f1[mask], f2[mask])
    dirty = f1.detach().clone()
    dirty[~mask] = float("nan")
    dirty.requires_grad_()
    tau = layer(dirty, f2, mask=mask)
    assert tau.item() == pytest.approx(expected.item(), rel=1e-12)
    (g,), (expected_g,) = gradients(tau, dirty), gradients(expected, f1)
    assert torch.allclose(g, expected_g, atol=1e-15)
    assert not g[~mask].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@on_host_only
def test_a_nonfinite_feature_is_named_and_left_out(bad):
    layer = layer_of(0.9, names=("landmarks", "pose"))
    pairs = list(batches(3, 16, 3, 2))
    layer(*pairs[0])
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    broken = pairs[1][1].detach().clone()
    broken[3, 1] = bad
    with pytest.raises(ValueError, match=r"^pose: the features hold values that are not finite"):
        layer(pairs[1][0], broken)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert torch.isfinite(layer(*pairs[2]))


def test_evaluation_reads_and_does_not_update():
    layer = layer_of(0.9)
    for f1, f2 in batches(3, 16, 3, 2):
        tau = layer(f1, f2)
    before = copy.deepcopy(layer.state_dict())
    layer.eval()
    assert layer(f1 * 2, f2 + f1[:, :2]).item() == tau.item()
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_converges_to_the_offline_similarity():
    layer = layer_of(0.99)
    pairs = list(batches(800, 64, 8, 4))
    for f1, f2 in pairs:
        tau = layer(f1, f2)
    offline = task_similarity(torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs]))
    assert tau.item() == pytest.approx(offline.item(), abs=0.02)


def test_effective_sample_size_tends_to_kish():
    layer = layer_of(0.9)
    for step, (f1, f2) in enumerate(batches(200, 16, 3, 2)):
        layer(f1, f2)
        if step == 0:
            assert layer.effective_sample_size.item() == pytest.approx(16)
    assert layer.effective_sample_size.item() == pytest.approx(16 * 1.9 / 0.1, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_features_are_measured_in_full_precision(dtype):
    layer, reference = layer_of(0.9), layer_of(0.9)
    for f1, f2 in batches(4, 64, 8, 4):
        half = f1.detach().to(dtype).requires_grad_(), f2.detach().to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tau = layer(*half)
        assert tau.dtype == torch.float32
        expected = reference(half[0].double(), half[1].double())
        assert tau.item() == pytest.approx(expected.item(), abs=1e-6)
        assert torch.isfinite(gradients(tau, half[0])[0]).all()


def test_changed_width_is_named():
    layer = layer_of(dims=(3, 2))
    with pytest.raises(ValueError, match=r"expected \(3, 2\) features .* found \(4, 2\)"):
        layer(torch.zeros(5, 4), torch.zeros(5, 2))


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
@on_host_only
def test_casting_a_model_does_not_reach_the_covariances(cast):
    layer = layer_of(0.9, dims=(3, 2))
    pairs = list(batches(3, 16, 3, 2))
    for pair in pairs[:2]:
        layer(*pair)
    reference = copy.deepcopy(layer)
    getattr(torch.nn.Sequential(layer), cast)()
    assert layer.groups[0].covariance.dtype == torch.float64
    assert layer(*pairs[2]).item() == reference(*pairs[2]).item()
