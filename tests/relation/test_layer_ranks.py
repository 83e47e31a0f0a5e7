"""Two ranks with half the batch each give what one process with the whole batch gives."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trn_plugin.relation import TaskRelationLayer

STEPS, N, D1, D2 = 4, 16, 5, 3


def data():
    g = torch.Generator().manual_seed(0)
    f1 = torch.randn(STEPS, N, D1, generator=g, dtype=torch.float64)
    f2 = f1[..., :D2] + torch.randn(STEPS, N, D2, generator=g, dtype=torch.float64)
    mask = torch.rand(STEPS, N, generator=g) < 0.8
    return f1, f2, mask


def run(f1, f2, mask):
    layer = TaskRelationLayer(0.9)
    taus, grads = [], []
    for step in range(STEPS):
        a, b = f1[step].clone().requires_grad_(), f2[step].clone()
        tau = layer(a, b, mask=mask[step])
        (g,) = torch.autograd.grad(tau, a)
        taus.append(tau.detach())
        grads.append(g)
    return torch.stack(taus), torch.stack(grads)


def worker(rank, port, out):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mine = slice(rank * N // 2, (rank + 1) * N // 2)
    f1, f2, mask = data()
    torch.save(run(f1[:, mine], f2[:, mine], mask[:, mine]), out / f"{rank}.pt")
    dist.destroy_process_group()


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_ranks_equal_one(tmp_path):
    mp.spawn(worker, args=(free_port(), tmp_path), nprocs=2)
    taus, grads = run(*data())
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for part, _ in parts:
        assert torch.allclose(part, taus, rtol=1e-12)
    # DistributedDataParallel divides by the world size, hence the factor
    both = torch.cat([g for _, g in parts], dim=1) / 2
    assert torch.allclose(both, grads, rtol=1e-9, atol=1e-15)
    assert grads.abs().max() > 0


if __name__ == "__main__":
    pytest.main([__file__])
