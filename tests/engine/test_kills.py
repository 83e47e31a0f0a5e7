"""Runs killed with SIGKILL end as runs that were not; the script says more with ``--help``."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "kill_and_resume.py"


def kill_and_resume(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    kills, writing = map(int, re.search(r"(\d+) kills, (\d+) of them", done.stdout).groups())
    return kills, writing


def test_three_kills():
    assert kill_and_resume("--kills", 3, "--epochs", 2, "--seed", 4)[0] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--by", "epoch"),
        ("--by", "iteration"),
        ("--by", "epoch", "--workers", 1),
        ("--by", "iteration", "--workers", 4, "--persistent"),
    ],
)
def test_twenty_kills(options):
    kills, writing = kill_and_resume("--kills", 20, *options)
    assert kills == 20
    assert writing > 0
