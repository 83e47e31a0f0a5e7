"""Checkpoint files are written atomically, read back, and checked."""

import io
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from trn_plugin.checkpoints import (
    FORMAT,
    load_checkpoint_file,
    save_checkpoint_file,
)
from trn_plugin.checkpoints.writing import plain
from trn_plugin.errors import CheckpointError


def test_only_plain_data_is_written(tmp_path):
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


def test_an_interrupted_write_is_an_interrupt(tmp_path, monkeypatch):
    """torch's own error about the unfinished file would hide it."""

    class Interrupted(io.FileIO):
        def write(self, data):
            if self.tell() > 0:
                raise KeyboardInterrupt
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda self, mode: Interrupted(self, mode))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint_file(dict(state_dict=dict(a=torch.ones(5000))), tmp_path / "a.pth")
    assert os.listdir(tmp_path) == []


def test_checkpoints_of_plain_mmengine_are_read(tmp_path):
    path = tmp_path / "mmengine.pth"
    hub = dict(log_scalars={"train/loss": HistoryBuffer([1.0, 2.0], [1, 1])}, runtime_info={})
    torch.save(
        dict(state_dict=dict(w=torch.ones(2)), message_hub=hub, meta=dict(mean=np.ones(3))), path
    )
    loaded = load_checkpoint_file(path)
    assert torch.equal(loaded["state_dict"]["w"], torch.ones(2))
    assert not isinstance(loaded["message_hub"]["log_scalars"]["train/loss"], HistoryBuffer)


def test_the_format_before_torch_1_6_is_read(tmp_path):
    path = tmp_path / "old.pth"
    meta = dict(trn_plugin_version="0.1.0", trn_plugin_format=FORMAT)
    checkpoint = dict(state_dict=dict(w=torch.arange(9.0)), meta=meta)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint_file(path)["state_dict"]["w"], torch.arange(9.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a checkpoint: No such file"),
        (b"", r"file\.pth: the file is empty"),
        (b"PK\x03\x04 and no more", "truncated or damaged checkpoint"),
        (b"plain text", "refused, it is damaged or holds more than plain data"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "file.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint_file(path)


def test_truncated(tmp_path):
    path = tmp_path / "file.pth"
    save_checkpoint_file(dict(state_dict=dict(w=torch.randn(1000)), meta={}), path)
    whole = path.read_bytes()
    for length in (5, 100, len(whole) // 2, len(whole) - 700, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"file\.pth: truncated or damaged"):
            load_checkpoint_file(path)


def test_one_changed_byte_is_found(tmp_path):
    path = tmp_path / "file.pth"
    weights = torch.arange(1000.0)
    meta = dict(trn_plugin_version="0.1.0", trn_plugin_format=FORMAT)
    save_checkpoint_file(dict(state_dict=dict(w=weights), meta=meta), path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(weights.numpy().tobytes()[:64]) + 33] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"damaged, the checksum of .*data/0 does not match"):
        load_checkpoint_file(path)


def test_a_newer_format_is_named(tmp_path):
    path = tmp_path / "file.pth"
    meta = dict(trn_plugin_version="9.1.0", trn_plugin_format=FORMAT + 1)
    save_checkpoint_file(dict(state_dict={}, meta=meta), path)
    with pytest.raises(
        CheckpointError, match=r"newer version of trn_plugin \('9\.1\.0', format 2\)"
    ):
        load_checkpoint_file(path)


def test_leftovers_of_a_killed_write_are_removed(tmp_path):
    (tmp_path / ".a.pth.abc.partial").write_bytes(b"half")
    (tmp_path / ".b.pth.abc.partial").write_bytes(b"of another")
    save_checkpoint_file(dict(state_dict={}, meta={}), tmp_path / "a.pth")
    assert sorted(os.listdir(tmp_path)) == [".b.pth.abc.partial", "a.pth"]


def test_folder_and_wrong_content(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint: Is a directory"):
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
        (dict(state_dict={"bn.running_var": -torch.ones(1)}), r"bn\.running_var are negative"),
        (dict(state_dict={}, meta=[1]), "'meta' to be a dict, found list"),
        (dict(state_dict={}, meta=None), "'meta' to be a dict, found NoneType"),
    ],
)
def test_content_of_the_wrong_kind(tmp_path, content, message):
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint_file(path)
