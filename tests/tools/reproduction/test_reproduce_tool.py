"""tools/reproduce.py: arguments, lists of commands, and the figure of labels."""

import shlex
from functools import partial

import pytest
from reproduction.main import TABLES


@pytest.fixture
def tool(run_tool, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return partial(run_tool, "reproduce")


def test_list_prints_each_runs_command_for_a_shell(tool, tmp_path):
    status, printed, error = tool("table1", "--seeds", 4, 5, "--list", "--out-dir", tmp_path)
    assert status == 0, error
    commands = [shlex.split(line) for line in printed.splitlines()]
    assert len(commands) == 2 * len(TABLES["table1"].rows)
    assert {command[-1] for command in commands} == {"randomness.seed=4", "randomness.seed=5"}


def test_weights_of_the_environment_are_left_to_the_shell(tool):
    _, printed, _ = tool("table1", "--scale", "finetune", "--seeds", 0, "--list")
    assert " model.backbone.checkpoint_path=$LITE0_WEIGHTS " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table1", "--jobs", "0"], "--jobs: expected at least 1, found 0"),
        (["table1", "--seeds", "1", "1"], "--seeds: expected different numbers"),
        (["table1", "--cfg-options", "x"], "--cfg-options: expected KEY=VALUE"),
        (["table1", "--only", "best"], "--only: no row is named 'best'"),
        (["study", "--scale", "paper"], "study has no scale 'paper', but small"),
        (["table1", "--report"], "no run is finished yet"),
    ],
)
def test_bad_arguments_are_one_line(tool, tmp_path, arguments, message):
    arguments = [*arguments, "--out-dir", tmp_path / "out", "--results", tmp_path / "runs.csv"]
    status, _, error = tool(*arguments)
    assert status == 2
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert message in line
