"""Two ranks with half the batch each equal one process with the whole batch."""

import pytest
import torch
from processes import in_ranks
from reference import layer_of

STEPS, N = 4, 64
WIDTHS = {"narrow": (5, 3), "wide": (128, 100), "uneven": (128, 100), "ragged": (128, 100)}
SINGLE = ("uneven", "ragged")  # float32
FIRST = {"ragged": 44}  # samples of the first rank; default half


def data(widths):
    d1, d2 = WIDTHS[widths]
    g = torch.Generator().manual_seed(0)
    f1 = torch.randn(STEPS, N, d1, generator=g, dtype=torch.float64)
    f2 = f1[..., :d2] + torch.randn(STEPS, N, d2, generator=g, dtype=torch.float64)
    mask = torch.rand(STEPS, N, generator=g) < 0.8
    if widths == "uneven":
        # on the first rank one direction holds most of the variance
        f1[:, : N // 2] += 9 * torch.randn(STEPS, N // 2, 1, generator=g)
    if widths in SINGLE:
        f1, f2 = f1.float(), f2.float()
    return f1, f2, mask


def run(f1, f2, mask):
    layer = layer_of(0.9)
    taus, grads = [], []
    for step in range(STEPS):
        a, b = f1[step].clone().requires_grad_(), f2[step].clone()
        tau = layer(a, b, mask=mask[step])
        (g,) = torch.autograd.grad(tau, a)
        taus.append(tau.detach())
        grads.append(g)
    return torch.stack(taus), torch.stack(grads), layer.state_dict()


def part(rank, widths):
    first = FIRST.get(widths, N // 2)
    mine = slice(first, N) if rank else slice(first)
    f1, f2, mask = data(widths)
    return run(f1[:, mine], f2[:, mine], mask[:, mine])


@pytest.mark.parametrize("widths", WIDTHS)
def test_two_ranks_equal_one(tmp_path, widths):
    parts = in_ranks(part, widths, folder=tmp_path)
    taus, grads, _ = run(*data(widths))
    for found, _, _ in parts:
        assert torch.allclose(found, taus, rtol=1e-5 if widths in SINGLE else 1e-10)
    # DistributedDataParallel divides by the world size, hence the factor
    both = torch.cat([g for _, g, _ in parts], dim=1) / 2
    assert (both - grads).norm() <= (2e-3 if widths in SINGLE else 1e-7) * grads.norm()
    assert grads.abs().max() > 0
    # a checkpoint holds the first rank's, so all ranks need bit-identical ones
    first, second = (state for _, _, state in parts)
    for name, value in first.items():
        assert torch.equal(second[name], value), name
