import argparse
import os
import pickle
import re
import subprocess
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from trn_plugin.checkpoints import (
    FORMAT,
    load_checkpoint_file,
    load_fitting_state,
    load_model_state,
    load_weights_file,
    save_checkpoint_file,
)
from trn_plugin.checkpoints.writing import plain
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


def checkpoint_with(payload):
    return dict(state_dict={}, meta=dict(config=payload))


def rewritten(path, change=lambda data: data, more=(), compression=zipfile.ZIP_STORED):
    """The archive with its pickle changed and records added."""
    with zipfile.ZipFile(path) as archive:
        records = [(r.filename, archive.read(r)) for r in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in [*records, *more]:
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)


def a_million_floats(data):
    """What held 4 floats declares 1,000,000."""
    million = b"J" + (10**6).to_bytes(4, "little")
    return data.replace(b"K\x04t", million + b"t", 1).replace(b"K\x04\x85", million + b"\x85", 1)


def write_hostile(kind, path, mark):
    """A file that would make ``mark``, read what is not there, or fill the memory."""
    calls = {
        "system": Call(os.system, f"touch {mark}"),
        "subprocess": Call(subprocess.check_call, ["touch", str(mark)]),
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "exec in metadata": Call(exec, f"open({str(mark)!r}, 'w')"),
    }
    if kind in calls:
        torch.save(checkpoint_with(calls[kind]), path)
    elif kind == "old pickle":
        path.write_bytes(pickle.dumps(checkpoint_with(calls["system"]), protocol=2))
    elif kind == "bytearray":
        torch.save(checkpoint_with(Call(bytearray, 6 * 10**9)), path)
    elif kind == "old bytearray":
        torch.save(
            checkpoint_with(Call(bytearray, 6 * 10**9)), path, _use_new_zipfile_serialization=False
        )
    elif kind == "long bytearray":
        torch.save(checkpoint_with(0), path)
        rewritten(path, lambda _: b"\x80\x05\x96" + (4 * 10**9).to_bytes(8, "little") + b".")
    elif kind == "getattr of os":
        path.write_bytes(
            b"\x80\x02c__builtin__\ngetattr\ncos\nenviron\nX\x05\x00\x00\x00clear\x86R)R."
        )
    elif kind == "getattr of HistoryBuffer":
        chain = (
            b"\x80\x02cbuiltins\ngetattr\ncmmengine.logging.history_buffer\nHistoryBuffer\n"
            b"X\x08\x00\x00\x00__init__\x86RX\x01\x00\x00\x00a\x85R."
        )
        torch.save(checkpoint_with(0), path)
        rewritten(path, lambda _: chain)
    else:
        torch.save(dict(state_dict=dict(w=torch.arange(4.0)), meta={}), path)
        if kind == "oversized tensor":
            rewritten(path, a_million_floats)
        elif kind == "repeated value":
            w = torch.zeros(1).expand(10**9)
            torch.save(dict(state_dict=dict(w=w), meta={}), path)
        elif kind == "path in archive":
            rewritten(path, more=[("../../etc/cron.d/x", b"x")])
        elif kind == "second root":
            rewritten(path, more=[("other/data.pkl", b"x")])
        elif kind == "compressed":
            rewritten(path, compression=zipfile.ZIP_DEFLATED)


HOSTILE = (
    "bytearray",
    "old bytearray",
    "long bytearray",
    "system",
    "subprocess",
    "eval",
    "exec in metadata",
    "old pickle",
    "getattr of os",
    "getattr of HistoryBuffer",
    "oversized tensor",
    "repeated value",
    "path in archive",
    "second root",
    "compressed",
)


@pytest.mark.parametrize("env", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_and_run_nothing(tmp_path, monkeypatch, kind, env):
    if env:
        monkeypatch.setenv(env, "1")
    path, mark = tmp_path / "hostile.pth", tmp_path / "mark"
    write_hostile(kind, path, mark)
    for load in (load_checkpoint_file, load_weights_file):
        with pytest.raises(CheckpointError, match=r"hostile\.pth: (refused|cannot)") as error:
            load(path)
        assert "\n" not in str(error.value)
    assert not mark.exists()


def test_what_others_allow_is_not_allowed_here(tmp_path):
    """A process that has allowed a function for its own files has not allowed it for ours."""
    path, mark = tmp_path / "hostile.pth", tmp_path / "mark"
    write_hostile("system", path, mark)
    with torch.serialization.safe_globals([os.system, (os.system, "posix.system")]):
        before = torch.serialization.get_safe_globals()
        with pytest.raises(CheckpointError, match="refused"):
            load_checkpoint_file(path)
        assert set(torch.serialization.get_safe_globals()) == set(before)
    assert not mark.exists()


def test_a_refusal_names_what_would_be_called(tmp_path):
    write_hostile("system", tmp_path / "hostile.pth", tmp_path / "mark")
    with pytest.raises(CheckpointError, match=r"plain data: it would call posix\.system$"):
        load_checkpoint_file(tmp_path / "hostile.pth")


def test_lists_that_hold_themselves_are_read_once(tmp_path):
    endless = []
    endless.append(endless)
    many = []
    for _ in range(60):
        many = [many, many]
    path = tmp_path / "cycle.pth"
    torch.save(dict(state_dict=dict(w=torch.ones(2)), meta=dict(a=endless, b=many)), path)
    assert torch.equal(load_checkpoint_file(path)["state_dict"]["w"], torch.ones(2))


def test_the_format_before_torch_1_6_is_read(tmp_path):
    path = tmp_path / "old.pth"
    meta = dict(trn_plugin_version="0.1.0", trn_plugin_format=FORMAT)
    checkpoint = dict(state_dict=dict(w=torch.arange(9.0)), meta=meta)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint_file(path)["state_dict"]["w"], torch.arange(9.0))


def test_an_environment_that_contradicts_itself_is_told(tmp_path, monkeypatch):
    save_checkpoint_file(dict(state_dict={}, meta={}), tmp_path / "a.pth")
    for name in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(CheckpointError, match=r"a\.pth: .*TORCH_FORCE") as error:
        load_checkpoint_file(tmp_path / "a.pth")
    assert "\n" not in str(error.value)


def test_the_mode_of_a_file_is_the_users(tmp_path):
    before = os.umask(0o077)
    try:
        save_checkpoint_file(dict(state_dict={}, meta={}), tmp_path / "a.pth")
    finally:
        os.umask(before)
    assert (tmp_path / "a.pth").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("key", ["0.weight", "1.running_var"])
def test_weights_that_are_not_finite_are_refused(key):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state[key].view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match=rf"a\.pth: the values of {key} are not finite"):
        load_model_state(model, state, "a.pth")


def test_text_of_a_file_reaches_no_terminal_as_it_is(tmp_path):
    path = tmp_path / "a.pth"
    version = "9\x1b[2J\n" + 5000 * "A"
    meta = dict(trn_plugin_version=version, trn_plugin_format=FORMAT + 1)
    save_checkpoint_file(dict(state_dict={}, meta=meta), path)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint_file(path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


def test_getattr_has_no_behaviour(tmp_path):
    path = tmp_path / "chain.pth"
    torch.save(checkpoint_with(Call(getattr, HistoryBuffer, "__init__")), path)
    loaded = load_checkpoint_file(path)
    assert not callable(loaded["meta"]["config"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such checkpoint file"),
        (b"", r"file\.pth: the file is empty"),
        (b"PK\x03\x04 and no more", "truncated or damaged, it begins as a checkpoint but"),
        (b"plain text", "refused, it is damaged or holds more than plain data"),
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
    with pytest.raises(CheckpointError, match=r"damaged, .*data/0 does not have its checksum"):
        load_checkpoint_file(path)


def test_a_newer_format_is_named(tmp_path):
    path = tmp_path / "file.pth"
    meta = dict(trn_plugin_version="9.1.0", trn_plugin_format=FORMAT + 1)
    save_checkpoint_file(dict(state_dict={}, meta=meta), path)
    with pytest.raises(
        CheckpointError, match=r"newer version of trn_plugin \('9\.1\.0', format 2\)"
    ):
        load_checkpoint_file(path)


def test_what_a_killed_write_left_is_cleared(tmp_path):
    (tmp_path / ".a.pth.abc.partial").write_bytes(b"half")
    (tmp_path / ".b.pth.abc.partial").write_bytes(b"of another")
    save_checkpoint_file(dict(state_dict={}, meta={}), tmp_path / "a.pth")
    assert sorted(os.listdir(tmp_path)) == [".b.pth.abc.partial", "a.pth"]


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


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_weights_of_another_kind_of_number_are_named(dtype):
    model = torch.nn.BatchNorm1d(3)
    before = model.state_dict()["weight"].clone()
    state = model.state_dict() | {"weight": torch.zeros(3, dtype=dtype)}
    message = rf"weight {dtype} instead of torch\.float32"
    with pytest.raises(CheckpointError, match=message):
        load_model_state(model, state, "a.pth")
    assert re.search(message, load_fitting_state(model, state, "a.pth")[1])
    assert torch.equal(model.weight, before)
    state = model.state_dict() | {"num_batches_tracked": torch.tensor(1.0)}
    with pytest.raises(CheckpointError, match=r"num_batches_tracked torch\.float32 instead"):
        load_model_state(model, state, "a.pth")
    half = {k: v.half() if "num" not in k else v.int() for k, v in model.state_dict().items()}
    load_model_state(model, half, "a.pth")


def nested_tuples(depth, shared):
    """A pickle whose 'state_dict' has a key of tuples of tuples."""
    data = b")q\x00"
    for level in range(depth):
        data += b"h%c\x86q%c" % (level, level + 1) if shared else b"\x85"
    return b"\x80\x02}X\x0a\x00\x00\x00state_dict}" + data + b"K\x01ss."


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("depth", "shared"), [(60, True), (30, True), (100_000, False)])
def test_tuples_nested_beyond_measure_are_refused(tmp_path, old, depth, shared):
    """Hashing them would take for ever, or overflow the stack."""
    path, data = tmp_path / "nested.pth", nested_tuples(depth, shared)
    if old:  # its first pickles are two numbers and a dict
        path.write_bytes(b"".join(pickle.dumps(value, 2) for value in (1, 1001, {})) + data)
    else:
        torch.save(checkpoint_with(0), path)
        rewritten(path, lambda _: data)
    with pytest.raises(CheckpointError, match=r"nested\.pth: refused, .*nested"):
        load_checkpoint_file(path)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), "quantised"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(1)]), "nested"),
        (torch.ones(2).to(torch.float8_e5m2), "float8"),
        (torch.ones(2) * 1j, "complex"),
        (torch.eye(2).to_sparse_csr(), "sparse"),
    ],
)
def test_odd_tensors_are_refused(tmp_path, value, found):
    path = tmp_path / "odd.pth"
    torch.save(dict(state_dict=dict(w=value), meta={}), path)
    for load in (load_checkpoint_file, load_weights_file):
        with pytest.raises(CheckpointError, match=rf"odd\.pth: .*{found}"):
            load(path)


def test_negative_variances_are_refused(tmp_path):
    path = tmp_path / "odd.pth"
    torch.save({"bn.running_var": torch.tensor([1.0, -1e-3])}, path)
    with pytest.raises(CheckpointError, match=r"bn\.running_var are negative"):
        load_weights_file(path)


def test_large_numbers_and_shared_lists_reach_no_message_whole(tmp_path):
    many = []
    for _ in range(60):
        many = [many, many]
    for key in (many, 10**400):
        path = tmp_path / "odd.pth"
        meta = dict(trn_plugin_version=key, trn_plugin_format=key)
        torch.save(dict(state_dict={}, meta=meta), path)
        with pytest.raises(CheckpointError, match="newer version") as error:
            load_checkpoint_file(path)
        assert len(str(error.value)) < 600


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
    with pytest.raises(CheckpointError, match=r"a\.pth: the model cannot take its state: TypeErr"):
        load_model_state(other, state, path)


class OfARun(torch.nn.Module):
    """Says which of its state a checkpoint may lack, and what is of a run."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(2, 1)
        self.register_buffer("moments", torch.zeros(2))
        self.register_buffer("mean", torch.zeros(1))

    def is_optional_state(self, key):
        return key == "mean"

    def is_run_state(self, key):
        return key == "moments"


def test_a_model_says_what_may_be_missing():
    model = OfARun()
    state = {k: v + 1 for k, v in model.state_dict().items()}
    del state["mean"]
    load_model_state(model, state, "a.pth")
    assert model.moments.tolist() == [1, 1]
    other = OfARun()
    lines = load_fitting_state(other, state, "a.pth")
    assert other.moments.tolist() == [0, 0]
    assert lines[0] == "2 of 3 weights taken from a.pth"
    with pytest.raises(CheckpointError, match=r"it lacks moments"):
        load_model_state(other, {k: v for k, v in state.items() if k != "moments"}, "a.pth")
