"""Weights of a checkpoint are loaded only into a model that they fit."""

import argparse
import re

import pytest
import torch

from trn_plugin.checkpoints import (
    load_checkpoint_file,
    load_fitting_state,
    load_model_state,
    load_weights_file,
    save_checkpoint_file,
)
from trn_plugin.errors import CheckpointError


@pytest.mark.parametrize("key", ["0.weight", "1.running_var"])
def test_weights_that_are_not_finite_are_refused(key):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state[key].view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match=rf"a\.pth: the values of {key} are not finite"):
        load_model_state(model, state, "a.pth")


def test_weights_of_another_model_are_named():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    state = model.state_dict()
    load_model_state(model, {f"module.{k}": v for k, v in state.items()}, "a.pth")
    state["2.weight"] = state.pop("1.weight")
    with pytest.raises(CheckpointError, match=r"lacks 1\.weight; it also holds 2\.weight"):
        load_model_state(model, state, "a.pth")
    state = model.state_dict() | {"0.weight": torch.zeros(5, 2)}
    with pytest.raises(CheckpointError, match=r"0\.weight \(5, 2\) float32 instead of \(3, 2\)"):
        load_model_state(model, state, "a.pth")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_weights_of_another_dtype_are_named(dtype):
    model = torch.nn.BatchNorm1d(3)
    before = model.state_dict()["weight"].clone()
    state = model.state_dict() | {"weight": torch.zeros(3, dtype=dtype)}
    message = rf"weight \(3,\) {str(dtype)[6:]} instead of \(3,\) float32"
    with pytest.raises(CheckpointError, match=message):
        load_model_state(model, state, "a.pth")
    assert re.search(message, load_fitting_state(model, state, "a.pth")[1])
    assert torch.equal(model.weight, before)
    state = model.state_dict() | {"num_batches_tracked": torch.tensor(1.0)}
    with pytest.raises(CheckpointError, match=r"num_batches_tracked \(\) float32 instead"):
        load_model_state(model, state, "a.pth")
    half = {k: v.half() if "num" not in k else v.int() for k, v in model.state_dict().items()}
    load_model_state(model, half, "a.pth")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_of_timms_training_script(tmp_path, prefix):
    path = tmp_path / "model_best.pth.tar"
    arguments = argparse.Namespace(model="resnet18", lr=0.1)
    weights = {f"{prefix}fc.weight": torch.arange(3.0)}
    torch.save(dict(epoch=3, state_dict=weights, args=arguments), path)
    assert list(load_weights_file(path)) == ["fc.weight"]


class Counts(torch.nn.Module):
    """Has an extra state, as modules with more than tensors do."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 1)
        self.count = 0

    def get_extra_state(self):
        return dict(count=self.count, vectors=[torch.ones(self.count)])

    def set_extra_state(self, state):
        self.count = state["count"]


def test_extra_states_are_kept(tmp_path):
    path, model, other = tmp_path / "a.pth", Counts(), Counts()
    model.count = 3
    save_checkpoint_file(dict(state_dict=model.state_dict(), meta={}), path)
    state = load_checkpoint_file(path)["state_dict"]
    load_model_state(other, state, path)
    assert other.count == 3
    load_model_state(other, {k: v for k, v in state.items() if "extra" not in k}, path)
    state["_extra_state"] = 5
    with pytest.raises(CheckpointError, match=r"a\.pth: the model cannot load its state: TypeErr"):
        load_model_state(other, state, path)


class OfARun(torch.nn.Module):
    """Has optional state and state of a run."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(2, 1)
        self.register_buffer("covariances", torch.zeros(2))
        self.register_buffer("mean", torch.zeros(1))

    def is_optional_state(self, key):
        return key == "mean"

    def is_run_state(self, key):
        return key == "covariances"


def test_a_model_names_its_optional_state():
    model = OfARun()
    state = {k: v + 1 for k, v in model.state_dict().items()}
    del state["mean"]
    load_model_state(model, state, "a.pth")
    assert model.covariances.tolist() == [1, 1]
    other = OfARun()
    lines = load_fitting_state(other, state, "a.pth")
    assert other.covariances.tolist() == [0, 0]
    assert lines[0] == "2 of 3 weights taken from a.pth"
    with pytest.raises(CheckpointError, match=r"it lacks covariances"):
        load_model_state(other, {k: v for k, v in state.items() if k != "covariances"}, "a.pth")
