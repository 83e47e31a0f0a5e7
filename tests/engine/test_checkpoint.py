import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from trn_plugin.engine import (
    load_checkpoint_file,
    load_model_state,
    load_weights_file,
    save_checkpoint_file,
)
from trn_plugin.engine.checkpoint import plain
from trn_plugin.errors import CheckpointError


def test_plain_data_only_is_written(tmp_path):
    path = tmp_path / "a.pth"
    checkpoint = dict(
        state_dict=OrderedDict(w=torch.arange(3.0)),
        meta=dict(array=np.arange(4), number=np.float64(0.5), names=("a", "b"), function=print),
    )
    save_checkpoint_file(checkpoint, path)
    loaded = torch.load(path, weights_only=True)  # no allow-list at all
    assert torch.equal(loaded["state_dict"]["w"], torch.arange(3.0))
    assert loaded["meta"]["array"].tolist() == [0, 1, 2, 3]
    assert loaded["meta"]["names"] == ("a", "b")
    assert plain(loaded["meta"]["number"]) == 0.5
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_failed_write_keeps_the_last_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    save_checkpoint_file(dict(state_dict={}, meta=dict(n=1)), path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"a\.pth: .*No space left"):
        save_checkpoint_file(dict(state_dict={}, meta=dict(n=2)), path)
    assert load_checkpoint_file(path)["meta"]["n"] == 1
    assert os.listdir(tmp_path) == ["a.pth"]


def test_checkpoints_of_plain_mmengine_are_read(tmp_path):
    path = tmp_path / "mmengine.pth"
    hub = dict(log_scalars={"train/loss": HistoryBuffer([1.0, 2.0], [1, 1])}, runtime_info={})
    torch.save(
        dict(state_dict=dict(w=torch.ones(2)), message_hub=hub, meta=dict(mean=np.ones(3))), path
    )
    loaded = load_checkpoint_file(path)
    assert torch.equal(loaded["state_dict"]["w"], torch.ones(2))
    assert not isinstance(loaded["message_hub"]["log_scalars"]["train/loss"], HistoryBuffer)


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Chain:
    """getattr(HistoryBuffer, ...) and on: what an allow-listed getattr would open."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


@pytest.mark.parametrize("env", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize("kind", ["system", "eval", "exec in meta", "legacy pickle"])
def test_hostile_files_are_refused_and_run_nothing(tmp_path, monkeypatch, kind, env):
    if env:
        monkeypatch.setenv(env, "1")
    path, mark = tmp_path / "hostile.pth", tmp_path / "mark"
    payload = {
        "system": Call(os.system, f"touch {mark}"),
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "exec in meta": Call(exec, f"open({str(mark)!r}, 'w')"),
        "legacy pickle": Call(os.system, f"touch {mark}"),
    }[kind]
    checkpoint = dict(state_dict={}, meta=dict(config=payload))
    if kind == "legacy pickle":
        path.write_bytes(pickle.dumps(checkpoint, protocol=2))
    else:
        torch.save(checkpoint, path)
    for load in (load_checkpoint_file, load_weights_file):
        with pytest.raises(CheckpointError, match=r"hostile\.pth") as error:
            load(path)
        assert "\n" not in str(error.value)
    assert not mark.exists()


def test_getattr_has_no_behaviour(tmp_path):
    path = tmp_path / "chain.pth"
    torch.save(dict(state_dict={}, meta=dict(x=Chain())), path)
    loaded = load_checkpoint_file(path)
    assert not callable(loaded["meta"]["x"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such checkpoint file"),
        (b"", "cannot be read as a checkpoint|damaged"),
        (b"PK\x03\x04 and no more", "cannot be read as a checkpoint|damaged"),
        (b"plain text", "cannot be read as a checkpoint|damaged"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, message):
    path = tmp_path / "file.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint_file(path)


def test_truncated(tmp_path):
    path = tmp_path / "file.pth"
    save_checkpoint_file(dict(state_dict=dict(w=torch.randn(1000)), meta={}), path)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        load_checkpoint_file(path)


def test_folder_and_wrong_content(tmp_path):
    with pytest.raises(CheckpointError, match="found a folder"):
        load_checkpoint_file(tmp_path)
    path = tmp_path / "list.pth"
    torch.save([1, 2], path)
    with pytest.raises(
        CheckpointError, match="expected a checkpoint with 'state_dict', found list"
    ):
        load_checkpoint_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dict(state_dict={"weight": 1}), "'weight' to be a dense tensor, found int"),
        (dict(state_dict={1: torch.ones(1)}), "found the key 1"),
        (dict(state_dict={"w": torch.eye(2).to_sparse()}), "'w' to be a dense tensor, found a"),
        (dict(state_dict={"w": torch.ones(1, device="meta")}), "tensor on meta"),
        (dict(state_dict={}, meta=[1]), "'meta' to be a dict, found list"),
        (dict(state_dict={}, meta=None), "'meta' to be a dict, found NoneType"),
    ],
)
def test_content_of_the_wrong_kind(tmp_path, content, message):
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint_file(path)


def test_weights_of_another_model_are_named():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    state = model.state_dict()
    load_model_state(model, {f"module.{k}": v for k, v in state.items()}, "a.pth")
    state["2.weight"] = state.pop("1.weight")
    with pytest.raises(CheckpointError, match=r"lacks 1\.weight; it also holds 2\.weight"):
        load_model_state(model, state, "a.pth")
    state = model.state_dict() | {"0.weight": torch.zeros(5, 2)}
    with pytest.raises(CheckpointError, match=r"0\.weight \(5, 2\) instead of \(3, 2\)"):
        load_model_state(model, state, "a.pth")
