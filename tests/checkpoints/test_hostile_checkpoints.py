"""Hostile or odd checkpoint files are refused and run nothing."""

import os
import pickle
import subprocess
import zipfile

import pytest
import torch
from mmengine.logging import HistoryBuffer

from trn_plugin.checkpoints import (
    FORMAT,
    load_checkpoint_file,
    load_weights_file,
)
from trn_plugin.errors import CheckpointError


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def checkpoint_with(payload):
    return dict(state_dict={}, meta=dict(config=payload))


def rewritten(path, change=lambda data: data, more=(), compression=zipfile.ZIP_STORED):
    """Rewrite an archive with its pickle changed and records added."""
    with zipfile.ZipFile(path) as archive:
        records = [(r.filename, archive.read(r)) for r in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in [*records, *more]:
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)


def a_million_floats(data):
    """A pickle of 4 floats that declares 1,000,000."""
    million = b"J" + (10**6).to_bytes(4, "little")
    return data.replace(b"K\x04t", million + b"t", 1).replace(b"K\x04\x85", million + b"\x85", 1)


def save_call(path, function, argument, archive=True):
    call = checkpoint_with(Call(function, argument))
    torch.save(call, path, _use_new_zipfile_serialization=archive)


HOSTILE = {  # written over a plain checkpoint
    "system": lambda path, mark: save_call(path, os.system, f"touch {mark}"),
    "subprocess": lambda path, mark: save_call(path, subprocess.check_call, ["touch", str(mark)]),
    "eval": lambda path, mark: save_call(path, eval, f"open({str(mark)!r}, 'w')"),
    "exec in metadata": lambda path, mark: save_call(path, exec, f"open({str(mark)!r}, 'w')"),
    "old pickle": lambda path, mark: path.write_bytes(
        pickle.dumps(checkpoint_with(Call(os.system, f"touch {mark}")), protocol=2)
    ),
    "bytearray": lambda path, mark: save_call(path, bytearray, 6 * 10**9),
    "old bytearray": lambda path, mark: save_call(path, bytearray, 6 * 10**9, archive=False),
    "long bytearray": lambda path, mark: rewritten(
        path, lambda _: b"\x80\x05\x96" + (4 * 10**9).to_bytes(8, "little") + b"."
    ),
    "getattr of os": lambda path, mark: path.write_bytes(
        b"\x80\x02c__builtin__\ngetattr\ncos\nenviron\nX\x05\x00\x00\x00clear\x86R)R."
    ),
    "getattr of HistoryBuffer": lambda path, mark: rewritten(
        path,
        lambda _: (
            b"\x80\x02cbuiltins\ngetattr\ncmmengine.logging.history_buffer\nHistoryBuffer\n"
            b"X\x08\x00\x00\x00__init__\x86RX\x01\x00\x00\x00a\x85R."
        ),
    ),
    "oversized tensor": lambda path, mark: rewritten(path, a_million_floats),
    "repeated value": lambda path, mark: torch.save(
        dict(state_dict=dict(w=torch.zeros(1).expand(10**9)), meta={}), path
    ),
    "path in archive": lambda path, mark: rewritten(path, more=[("../../etc/cron.d/x", b"x")]),
    "second root": lambda path, mark: rewritten(path, more=[("other/data.pkl", b"x")]),
    "compressed": lambda path, mark: rewritten(path, compression=zipfile.ZIP_DEFLATED),
}


def write_hostile(kind, path, mark):
    """Write a file that would create ``mark``, read beyond its data, or exhaust memory."""
    torch.save(dict(state_dict=dict(w=torch.arange(4.0)), meta={}), path)
    HOSTILE[kind](path, mark)


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
        if kind == "system":
            assert str(error.value).endswith("plain data: it would call posix.system")
    assert not mark.exists()


def test_safe_globals_of_the_process_do_not_apply(tmp_path):
    """Classes that a process allows for its own files stay refused in checkpoints."""
    path, mark = tmp_path / "hostile.pth", tmp_path / "mark"
    write_hostile("system", path, mark)
    with torch.serialization.safe_globals([os.system, (os.system, "posix.system")]):
        before = torch.serialization.get_safe_globals()
        with pytest.raises(CheckpointError, match="refused"):
            load_checkpoint_file(path)
        assert set(torch.serialization.get_safe_globals()) == set(before)
    assert not mark.exists()


def test_lists_that_contain_themselves_are_checked_once(tmp_path):
    endless = []
    endless.append(endless)
    path = tmp_path / "cycle.pth"
    torch.save(dict(state_dict=dict(w=torch.ones(2)), meta=dict(a=endless, b=MANY)), path)
    assert torch.equal(load_checkpoint_file(path)["state_dict"]["w"], torch.ones(2))


MANY: list = []
for _ in range(60):
    MANY = [MANY, MANY]


@pytest.mark.parametrize("value", ["9\x1b[2J\n" + 5000 * "A", MANY, 10**400])
def test_messages_escape_and_shorten_values_of_a_file(tmp_path, value):
    path = tmp_path / "a.pth"
    meta = dict(trn_plugin_version=value, trn_plugin_format=FORMAT + 1)
    torch.save(dict(state_dict={}, meta=meta), path)
    with pytest.raises(CheckpointError, match="newer version") as error:
        load_checkpoint_file(path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


def test_getattr_has_no_behaviour(tmp_path):
    path = tmp_path / "chain.pth"
    torch.save(checkpoint_with(Call(getattr, HistoryBuffer, "__init__")), path)
    loaded = load_checkpoint_file(path)
    assert not callable(loaded["meta"]["config"])


def nested_tuples(depth, shared):
    """A pickle whose 'state_dict' has a key of tuples of tuples."""
    data = b")q\x00"
    for level in range(depth):
        data += b"h%c\x86q%c" % (level, level + 1) if shared else b"\x85"
    return b"\x80\x02}X\x0a\x00\x00\x00state_dict}" + data + b"K\x01ss."


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("depth", "shared"), [(60, True), (30, True), (100_000, False)])
def test_deeply_nested_tuples_are_refused(tmp_path, old, depth, shared):
    """Hashing them would never end, or overflow the stack."""
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
