"""Finite inputs of any kind give finite outputs and gradients."""

import pytest
import torch
from reference import layer_of

from trn_plugin.relation import task_similarity

KINDS = ("dense", "constant", "duplicates", "low_rank", "one_hot", "sparse", "huge_mean")


def features(n, d, kind, g, dtype):
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    if kind == "constant":
        x[:] = x[:1]
    elif kind == "duplicates":
        x = x[:, torch.randint(d, (d,), generator=g)]
        x = x[torch.randint(n, (n,), generator=g)]
    elif kind == "low_rank":
        x = x[:, :1] @ torch.randn(1, d, generator=g, dtype=torch.float64)
    elif kind == "one_hot":
        x = torch.eye(d, dtype=torch.float64)[torch.randint(d, (n,), generator=g)]
    elif kind == "sparse":
        x = x * (torch.rand(n, d, generator=g) < 0.05)
    elif kind == "huge_mean":
        x = x + 1e6
    exponent = 24 * torch.rand((), generator=g) - 12
    return (x * 10 ** float(exponent)).to(dtype)


def run(count, seed):
    g = torch.Generator().manual_seed(seed)

    def pick(options):
        return options[int(torch.randint(len(options), (), generator=g))]

    done = 0
    while done < count:
        tasks, n = pick([2, 2, 3]), pick([1, 2, 3, 8, 40])
        dims = [pick([1, 2, 3, 7, 12]) for _ in range(tasks)]
        dtype = pick([torch.float32, torch.float64])
        layer = layer_of(pick([0.0, 0.5, 0.99]), deletion=pick(["pairwise", "listwise"]))
        for _ in range(4):
            mask = [torch.rand(n, generator=g) < pick([0.3, 1.1]) for _ in dims]
            fs = []
            for d, m in zip(dims, mask, strict=True):
                f = features(n, d, pick(KINDS), g, dtype)
                fs.append(torch.where(m[:, None], f, torch.nan).requires_grad_())
            tau = layer(*fs, mask=mask)
            grads = torch.autograd.grad(tau.sum(), fs)
            assert ((tau >= 0) & (tau <= 1)).all(), (dims, n, dtype)
            assert all(torch.isfinite(x).all() for x in grads), (dims, n, dtype)
            done += 1
        offline = [features(max(n, 1), d, pick(KINDS), g, dtype).requires_grad_() for d in dims[:2]]
        tau = task_similarity(*offline)
        assert 0 <= tau <= 1
        assert all(torch.isfinite(x).all() for x in torch.autograd.grad(tau, offline))
        done += 1


def test_random_and_degenerate_inputs():
    run(1_000, seed=0)


@pytest.mark.slow
def test_one_hundred_thousand_random_and_degenerate_inputs():
    run(100_000, seed=1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("first", KINDS)
def test_wide_inputs_of_every_kind(first):
    """Kind, scale and size change from batch to batch; the state stays finite too."""
    g = torch.Generator().manual_seed(KINDS.index(first))
    for dtype, momentum in ((torch.float32, 0.0), (torch.float32, 0.9), (torch.float64, 0.9)):
        layer = layer_of(momentum, shrinkage=1e-9)
        for n, kind in zip((40, 1, 8, 2, 64, 40, 0), KINDS, strict=True):
            f1 = features(max(n, 1), 110, first, g, dtype)[:n].requires_grad_()
            f2 = features(max(n, 1), 96, kind, g, dtype)[:n].requires_grad_()
            tau = layer(f1, f2)
            assert 0 <= tau <= 1
            assert all(x.isfinite().all() for x in torch.autograd.grad(tau, (f1, f2)))
            state = layer.state_dict().values()
            assert all(x.isfinite().all() for x in state if x.is_floating_point())
