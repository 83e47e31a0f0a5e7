"""JacobianOptimWrapper and GradNorm: two ranks equal one process with the whole batch."""

import pytest
import torch
from builders import batch
from jacobian_steps import SIZE, relation_model, step, wrapper_of
from mmengine.model import MMDistributedDataParallel
from processes import in_ranks

pytest.importorskip("torchjd", reason="needs the extra torchjd")
pytest.importorskip("quadprog", reason="UPGrad needs TorchJD's extra quadprog_projector")

STEPS, N = 3, 32
MISSING = {(0, "pose"), (1, "landmarks"), *((row, "pose") for row in range(16, 32))}


def train(rank, ranks, name):
    model = relation_model(task_weighting=dict(type="GradNorm"))
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False) if ranks > 1 else model
    wrapper = wrapper_of(model, dict(type=name))
    mine = slice(rank * N // ranks, (rank + 1) * N // ranks)
    torch.manual_seed(rank)  # PCGrad draws an order; one process decides
    for number in range(STEPS):
        x, samples = batch(N, SIZE, seed=number, missing=MISSING)
        step(model, wrapper, x[mine], samples[mine], wrapped)
    return {k: v.clone() for k, v in model.state_dict().items()}


def part(rank):
    return {name: train(rank, 2, name) for name in ("UPGrad", "PCGrad")}


def test_two_ranks_equal_one(tmp_path):
    """One rank has no pose label in its half of the batch."""
    first, second = in_ranks(part, folder=tmp_path)
    for name, state in first.items():
        expected = train(0, 1, name)
        for key, value in state.items():
            assert torch.equal(value, second[name][key]), key
            difference = (value.double() - expected[key].double()).norm()
            assert difference <= 1e-3 * expected[key].double().norm().clamp(min=1e-3), (name, key)
