"""tools/compare_commits.py on made-up outputs, since whole runs take minutes."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from tool_runs import load

from trn_plugin.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    return load("compare_commits")


def outputs():
    return {
        "mtl/log": {
            "loss": torch.tensor([0.5, 0.25, float("nan")]),
            "relation/output": torch.tensor([0.1]),
        },
        "mtl/checkpoint/state_dict": {"w": torch.tensor([1.0, float("nan")]), "n": 3},
    }


def test_equal(tool, capsys):
    assert tool.report(outputs(), outputs(), {}) == 0
    assert "mtl/log: 2 equal, 0 different\n" in capsys.readouterr().out


def test_a_step_that_differs(tool, capsys):
    head = outputs()
    head["mtl/log"]["loss"][1] = 0.5
    assert tool.report(outputs(), head, {}) == 1
    line = "  mtl/log/loss: 1 of 3 values, first at 1, by at most 0.25\n"
    assert line in capsys.readouterr().out


def test_the_last_bit_of_a_weight(tool):
    a = torch.tensor([1.0, -0.0])
    b = torch.tensor([1.0, 0.0])
    assert tool.difference(a, a.clone()) is None
    assert tool.difference(a, b) == "1 of 2 values, first at 1, by at most 0"
    assert tool.difference(a, torch.nextafter(a, b + 2)).startswith("2 of 2 values")
    assert tool.difference(a, a.double()) == "[2] torch.float32 before, now [2] torch.float64"
    found = tool.difference(torch.tensor(True), torch.tensor(False))
    assert found == "1 of 1 values, first at 0, by at most 1"


def test_a_name_or_group_that_one_side_lacks(tool, capsys):
    head = outputs()
    del head["mtl/log"]["relation/output"]
    head["mtl/checkpoint/optimizer"] = {"lr": 0.1}
    assert tool.report(outputs(), head, {}) == 2
    out = capsys.readouterr().out
    assert "  mtl/log/relation/output: tensor([0.1000]) before, now 'missing'\n" in out
    assert "  mtl/checkpoint/optimizer/lr: 'missing' before, now 0.1\n" in out


def test_allowed_differences_name_their_reason(tool, capsys):
    head = outputs()
    head["mtl/log"]["loss"][0] = 0.75
    head["mtl/checkpoint/state_dict"]["n"] = 4
    allowed = tool.parse_allowed(["*/log/loss = point 3", "stl/*=nothing"])
    assert tool.report(outputs(), head, allowed) == 1
    out = capsys.readouterr().out
    assert "mtl/log/loss: 1 of 3 values, first at 0, by at most 0.25 (allowed: point 3)" in out
    assert "mtl/checkpoint/state_dict/n: 3 before, now 4\n" in out
    assert "--allow stl/*: no difference matches" in out


@pytest.mark.parametrize("text", ["name", "name=", "=reason"])
def test_a_difference_is_not_allowed_without_a_reason(tool, text):
    with pytest.raises(ConfigError, match="NAME=REASON"):
        tool.parse_allowed([text])


def test_times_and_checksums_are_ignored(tool, tmp_path):
    log = tmp_path / "20260101_120000" / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    rows = [{"loss": 1.0 / step, "data_time": 0.1, "time": 0.2, "step": step} for step in (1, 2)]
    log.write_text("\n".join(map(json.dumps, rows)))
    (loss,) = tool.read_log(tmp_path).values()
    assert loss.tolist() == [1.0, 0.5]
    value = {
        "meta": {"time": "20260101_120000", "name": "toy_20260101_120000"},
        "log": {"train/time": {"history": [1]}, "lr": [0.1, {"work": f"{tmp_path}/mtl"}]},
        "checkpoint_sha256": "ab",
    }
    expected = {"meta/name": "toy_TIME", "log/lr/0": 0.1, "log/lr/1/work": "./mtl"}
    assert tool.flat(value, tmp_path) == expected


def test_checkout(tool, tmp_path):
    if subprocess.run(["git", "-C", ROOT, "rev-parse"], capture_output=True).returncode:
        pytest.skip("not a git repository")
    assert (tool.checkout("HEAD", tmp_path / "code") / "tools/train.py").is_file()
    assert tool.checkout(None, tmp_path / "code") == ROOT
    with pytest.raises(ConfigError, match="no-such-commit: cannot be checked out"):
        tool.checkout("no-such-commit", tmp_path / "code")
