"""Runs killed with SIGKILL and resumed end like uninterrupted ones (see kill_and_resume.py)."""

import re

import pytest
from kill_and_resume import kill_and_resume, parse_args


@pytest.fixture
def killed(capsys):
    """A function that counts kills, kills during a checkpoint's write, and warm-started steps."""

    def run(*arguments):
        same = kill_and_resume(parse_args(list(map(str, arguments))))
        told = capsys.readouterr().out
        assert same, told
        kills, writing = map(int, re.search(r"(\d+) kills, (\d+) of them", told).groups())
        return kills, writing, int(re.search(r"(\d+) warm steps", told)[1])

    return run


@pytest.mark.parametrize(
    "options",
    [
        ("--hidden", "wide", "--accumulate", 2),
        ("--data", "wrapped", "--by", "iteration", "--sampler", "InfiniteSampler"),
        ("--data", "wrapped", "--ranks", 2),
    ],
    ids=lambda options: "".join(map(str, options)),
)
def test_two_kills(killed, options):
    kills, _, warm = killed("--kills", 2, "--epochs", 2, "--seed", 4, *options)
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
def test_twenty_kills(killed, options):
    kills, writing, _ = killed("--kills", 20, *options)
    assert kills == 20
    assert writing > 0
