"""Runs killed with SIGKILL end as runs that were not; the script says more with ``--help``."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "kill_and_resume.py"


def kill_and_resume(*arguments):
    """Number of kills, of those while a checkpoint was written, and of warm steps of tau."""
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    kills, writing = map(int, re.search(r"(\d+) kills, (\d+) of them", done.stdout).groups())
    return kills, writing, int(re.search(r"(\d+) warm steps", done.stdout)[1])


def test_three_kills():
    assert kill_and_resume("--kills", 3, "--epochs", 2, "--seed", 4)[0] == 3


@pytest.mark.parametrize(
    "options",
    [
        ("--hidden", "wide", "--accumulate", 2),
        ("--data", "wrapped", "--by", "iteration", "--sampler", "InfiniteSampler"),
        ("--data", "wrapped", "--ranks", 2),
    ],
    ids=lambda options: "".join(map(str, options)),
)
def test_two_kills(options):
    kills, _, warm = kill_and_resume("--kills", 2, "--epochs", 2, "--seed", 4, *options)
    assert kills == 2
    assert warm > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--by", "epoch"),
        ("--by", "iteration"),
        ("--by", "epoch", "--workers", 1),
        ("--by", "iteration", "--workers", 4, "--persistent"),
        ("--hidden", "narrow"),
        ("--hidden", "wide", "--by", "iteration"),
        ("--data", "wrapped"),
        ("--data", "wrapped", "--by", "iteration", "--workers", 2),
        ("--accumulate", 2),
        ("--accumulate", 3, "--by", "iteration"),
        ("--ranks", 2),
        ("--ranks", 2, "--by", "iteration", "--accumulate", 2),
    ],
    ids=lambda options: "".join(map(str, options)),
)
def test_twenty_kills(options):
    kills, writing, _ = kill_and_resume("--kills", 20, *options)
    assert kills == 20
    assert writing > 0
