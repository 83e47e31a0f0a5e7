"""The relation layer on a CUDA device, beside the same layer in float64 on the CPU."""

import pytest
import torch
from reference import layer_of

from trn_plugin.relation import task_similarity

pytestmark = pytest.mark.cuda


def related(n, d1, d2, seed, dtype=torch.float32):
    """Features that share two directions; on the CPU."""
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 2, generator=g)
    mixes = (torch.randn(2, d, generator=torch.Generator().manual_seed(d)) for d in (d1, d2))
    return [
        (common @ mix + torch.randn(n, d, generator=g)).to(dtype)
        for mix, d in zip(mixes, (d1, d2), strict=True)
    ]


@pytest.mark.parametrize(("d1", "d2"), [(10, 5), (1, 1), (64, 40), (256, 128)])
@pytest.mark.parametrize("statistic", ["largest", "pillai"])
def test_equals_the_cpu(d1, d2, statistic):
    layers = [layer_of(0.9, statistic=statistic) for _ in range(2)]
    for step in range(6):
        pairs = [
            [f.to(device, dtype).requires_grad_() for f in related(512, d1, d2, step)]
            for device, dtype in (("cuda", torch.float32), ("cpu", torch.float64))
        ]
        taus = [layer(*pair) for layer, pair in zip(layers, pairs, strict=True)]
        for tau in taus:
            tau.backward()
        assert taus[0].device.type == "cuda"
        assert taus[0].item() == pytest.approx(taus[1].item(), abs=1e-5)
        for ours, theirs in zip(*pairs, strict=True):
            error = (ours.grad.cpu() - theirs.grad).norm() / theirs.grad.norm()
            assert error <= 2e-3, (step, float(error))


def test_many_tasks_with_missing_labels():
    layers = [layer_of(0.9), layer_of(0.9)]
    for step in range(4):
        g = torch.Generator().manual_seed(step)
        features = list(torch.randn(5, 96, 3, generator=g, dtype=torch.float64))
        masks = list(torch.rand(5, 96, generator=g) < 0.8)
        cuda = layers[0](*(f.cuda() for f in features), mask=[m.cuda() for m in masks])
        cpu = layers[1](*features, mask=masks)
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("d1", "d2"), [(10, 5), (128, 128)])
def test_a_step_never_waits_for_the_device(d1, d2):
    layer = layer_of(0.9)
    batches = [[f.cuda().requires_grad_() for f in related(64, d1, d2, s)] for s in range(8)]
    for step, batch in enumerate(batches):
        torch.cuda.set_sync_debug_mode("error" if step >= 3 else "default")
        try:
            layer(*batch).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_features_that_are_not_finite_are_left_out_and_told():
    layer = layer_of(0.9)
    batch = [f.cuda() for f in related(64, 10, 5, 0)]
    layer(*batch)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    bad = batch[0].clone()
    bad[3, 2] = torch.nan
    layer(bad, batch[1])
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match=r"^f1: "):
        layer(*batch)


def test_autocast_leaves_the_covariances_in_full_precision():
    f1, f2 = (f.cuda() for f in related(256, 10, 5, 1))
    plain, mixed = layer_of(0.9), layer_of(0.9)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        tau = mixed(f1, f2)
    assert tau.item() == plain(f1, f2).item()


def test_offline_similarity_equals_the_cpu():
    f1, f2 = related(500, 10, 5, 2)
    assert task_similarity(f1.cuda(), f2.cuda()).item() == pytest.approx(
        task_similarity(f1, f2).item(), abs=1e-5
    )
