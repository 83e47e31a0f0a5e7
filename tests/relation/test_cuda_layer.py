"""The relation layer on a CUDA device, beside the same layer in float64 on the CPU."""

import pytest
import torch
from reference import layer_of

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


@pytest.mark.parametrize(("d1", "d2"), [(10, 5), (128, 128)])
def test_a_step_does_not_synchronise(d1, d2):
    layer = layer_of(0.9)
    batches = [[f.cuda().requires_grad_() for f in related(64, d1, d2, s)] for s in range(8)]
    for step, batch in enumerate(batches):
        torch.cuda.set_sync_debug_mode("error" if step >= 3 else "default")
        try:
            layer(*batch).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_nonfinite_features_are_left_out_and_reported():
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
