"""The state of layers of wide tasks: copied, averaged, moved, broadcast and saved."""

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage, StochasticWeightAverage
from processes import in_ranks
from reference import drifting, layer_of, on_host_only
from test_layer import gradients
from torch import nn

from trn_plugin.relation import TaskRelationLayer

pytestmark = on_host_only


def wide_model():
    relation = layer_of(0.9, dims=(128, 100), start="identity")
    return nn.ModuleDict(dict(head=nn.Linear(4, 4), relation=relation))


def trained(steps, model=None):
    model = model or wide_model()
    for f1, f2 in drifting(steps, 64, 128, 100, torch.float32):
        model["relation"](f1, f2)
    return model


@pytest.mark.parametrize("update_buffers", [False, True])
@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (ExponentialMovingAverage, "update_buffers"),
        (StochasticWeightAverage, "update_buffers"),
        (torch.optim.swa_utils.AveragedModel, "use_buffers"),
    ],
)
def test_an_averaged_model_follows(kind, option, update_buffers):
    model = wide_model()
    average = kind(model, **{option: update_buffers})
    for f1, f2 in drifting(6, 64, 128, 100, torch.float32):
        tau = model["relation"](f1, f2)
        average.update_parameters(model)
    average.eval()
    measured = average.module["relation"](f1, f2)
    assert 0 < measured <= 1
    if not update_buffers:
        assert measured.item() == pytest.approx(tau.item(), abs=1e-5)
    average.load_state_dict(copy.deepcopy(average.state_dict()))


def test_the_state_has_the_same_names_and_shapes_from_the_start():
    model = wide_model()
    before = {k: v.shape for k, v in model.state_dict().items()}
    names = [name for name, _ in model.named_buffers()]
    after = {k: v.shape for k, v in trained(4, model).state_dict().items()}
    assert before == after
    assert names == [name for name, _ in model.named_buffers()]


def test_a_state_from_before_the_first_step_loads():
    model = wide_model()
    fresh = copy.deepcopy(model.state_dict())
    trained(4, model).load_state_dict(fresh)
    steps = list(drifting(3, 64, 128, 100, torch.float32))
    other = wide_model()
    for f1, f2 in steps:
        assert model["relation"](f1, f2).item() == other["relation"](f1, f2).item()


def test_a_copy_goes_on_by_itself_to_the_bit():
    model = trained(5)
    twin = copy.deepcopy(model)
    for f1, f2 in drifting(3, 64, 128, 100, torch.float32, seed=1):
        assert torch.equal(model["relation"](f1, f2), twin["relation"](f1, f2))
    before = copy.deepcopy(twin.state_dict())
    trained(1, model)
    assert all(torch.equal(v, before[k]) for k, v in twin.state_dict().items())


def test_a_saved_state_is_plain_and_goes_on_to_the_bit(tmp_path):
    model = trained(5)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(torch.is_tensor(value) for value in state.values())
    other = wide_model()
    other.load_state_dict(state)
    for f1, f2 in drifting(4, 64, 128, 100, torch.float32, seed=1):
        assert torch.equal(model["relation"](f1, f2), other["relation"](f1, f2))
    assert model["relation"].exact_rate == other["relation"].exact_rate


def test_a_move_to_another_device_and_back_leaves_no_solver_state_there():
    model = trained(5).to("meta")
    assert model["relation"].exact_rate is None
    assert {b.device.type for b in model["relation"].buffers()} == {"meta"}
    size = model.state_dict()["relation._extra_state"].numel()
    assert size == 0
    host = wide_model()
    state = {
        k: torch.zeros_like(v, device="cpu") for k, v in model["relation"].state_dict().items()
    }
    state["widths"] = torch.tensor([128, 100])
    host["relation"].load_state_dict(state)
    assert 0 < trained(2, host)["relation"].exact_rate <= 1


@pytest.mark.cuda
def test_the_state_of_a_cpu_goes_on_on_a_gpu():
    model = trained(5)
    moved = copy.deepcopy(model).cuda()
    for f1, f2 in drifting(3, 64, 128, 100, torch.float64, seed=1):
        tau, other = model["relation"](f1, f2), moved["relation"](f1.cuda(), f2.cuda())
        assert other.item() == pytest.approx(tau.item(), abs=1e-5)


def test_a_layer_without_features_yet_has_a_state():
    layer = TaskRelationLayer()
    layer.load_state_dict(copy.deepcopy(layer.state_dict()))


def broadcast(rank, start):
    model = wide_model()
    if rank == 0:
        model.load_state_dict(start)
    # broadcasts the first rank's parameters and buffers
    wrapped = nn.parallel.DistributedDataParallel(Trained(model))
    taus, grads = [], []
    for f1, f2 in drifting(6, 64, 128, 100, torch.float64, seed=1):
        half = slice(32) if rank == 0 else slice(32, 64)
        f1 = f1.detach()[half].requires_grad_()
        tau = wrapped(f1, f2.detach()[half])
        taus.append(tau.detach())
        grads.append(torch.autograd.grad(tau, f1)[0])
    return torch.stack(taus), torch.stack(grads), model["relation"].state_dict()


class Trained(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, f1, f2):
        return self.model["relation"](f1, f2) + 0 * sum(
            p.sum() for p in self.model["head"].parameters()
        )


def test_broadcasts_of_distributed_data_parallel_reach_all_processes(tmp_path):
    """The first process has a solver state, the other only receives its covariances."""
    model = trained(5)
    parts = in_ranks(broadcast, model.state_dict(), folder=tmp_path)
    (taus, _, first), (other, _, second) = parts
    assert torch.equal(taus, other)
    for name, value in first.items():
        assert torch.equal(second[name], value), name
    both = torch.cat([grads for _, grads, _ in parts], 1) / 2
    for step, (f1, f2) in enumerate(drifting(6, 64, 128, 100, torch.float64, seed=1)):
        tau = model["relation"](f1, f2)
        assert taus[step].item() == pytest.approx(tau.item(), abs=1e-6)
        (expected,) = gradients(tau, f1)
        assert (both[step] - expected).norm() <= 2e-3 * expected.norm()
