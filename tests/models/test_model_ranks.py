"""The whole model under DistributedDataParallel: 2 x 64 samples equal 1 x 128."""

import pytest
import torch
from builders import batch, build
from processes import in_ranks
from torch.nn.parallel import DistributedDataParallel

from trn_plugin.hooks import TaskRelationLossHook

STEPS, N, SIZE = 3, 128, 32
MISSING = {(0, "pose"), (1, "landmarks"), (2, "pose"), (9, "landmarks"), (9, "pose")}


def train(rank, ranks, dtype):
    """Weights, losses and tau after some steps; with layer norm, as batch norm is local."""
    model = build("test_vit", levels=("hidden", "output"), size=SIZE)
    hook = TaskRelationLossHook(dict(hidden=0.5, output=0.5), min_samples_per_dim=0)
    model.neck.require_samples(0)
    model.relation_losses.append(hook.losses)
    model.to(dtype)
    wrapped = DistributedDataParallel(model) if ranks > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    mine = slice(rank * N // ranks, (rank + 1) * N // ranks)
    logs = []
    for step in range(STEPS):
        x, samples = batch(N, SIZE, seed=step, missing=MISSING)
        losses = wrapped(x[mine].to(dtype), samples[mine], mode="loss")
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        grads = {f"grad {k}": p.grad.double() for k, p in model.named_parameters()}
        optimizer.step()
        logs.append({k: v.detach().double() for k, v in losses.items()})
    return {**{k: v.clone() for k, v in model.state_dict().items()}, **grads}, logs


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_two_ranks_equal_one(tmp_path, dtype, error):
    """In tau, losses, the last step's gradients, weights and running covariances."""
    parts = in_ranks(train, 2, dtype, folder=tmp_path)
    state, logs = train(0, 1, dtype)
    start = build("test_vit", levels=("hidden", "output"), size=SIZE).state_dict()
    for key, value in state.items():
        for part, _ in parts:
            difference = (part[key].double() - value.double()).norm()
            assert difference <= error * value.double().norm(), key
    moved = [k for k, v in start.items() if not torch.allclose(v.to(dtype), state[k].to(dtype))]
    assert any(k.startswith("backbone.trunk.") for k in moved)
    for step in range(STEPS):
        for key, value in logs[step].items():
            both = torch.stack([part[step][key] for _, part in parts])
            # each rank's task loss is its share; relations are the same on all ranks
            found = both.mean() if key in ("loss_pose", "loss_landmarks") else both
            assert torch.allclose(found, value.expand_as(found), rtol=error, atol=0.0), key
