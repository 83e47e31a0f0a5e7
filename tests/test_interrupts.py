"""Ctrl-C at any moment: one line, exit status 130."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trn_plugin import interrupts

ROOT = Path(__file__).parents[1]
TOOLS = sorted((ROOT / "tools").glob("*.py"))

# an import hook that interrupts its own process at the n-th module the program asks for
AT_THE_IMPORT = """
import os, runpy, signal, sys

class Interrupts:
    left = {left}

    def find_spec(self, name, path=None, target=None):
        if "trn_plugin.interrupts" in sys.modules:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
tool = {tool!r}
sys.argv = [tool, "--help"]
sys.modules["__main__"].__file__ = tool
sys.path.insert(0, os.path.dirname(tool))
sys.meta_path.insert(0, Interrupts())
runpy.run_path(tool, run_name="__main__")
"""


def run(code):
    """Exit status, output and errors of a program."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("left", [1, 40, 400])
def test_while_a_tool_imports(left):
    code = AT_THE_IMPORT.format(left=left, tool=str(ROOT / "tools/train.py"))
    assert run(code) == (130, "", "interrupted\n")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_every_tool_looks_out_from_its_first_import(tool):
    code = AT_THE_IMPORT.format(left=1, tool=str(tool))
    assert run(code) == (130, "", "interrupted\n")


@pytest.fixture(autouse=True)
def not_ignored():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(main, capsys):
    """What is told of a program that ends by an interrupt."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop, interrupts.in_one_line():
        main()
    assert stop.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    return capsys.readouterr().err


def told_by_another_error():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("initialization failed") from None


def test_while_it_runs(capsys):
    assert interrupted(lambda: signal.raise_signal(signal.SIGINT), capsys) == "interrupted\n"


def test_what_a_library_makes_of_an_interrupt(capsys):
    assert interrupted(told_by_another_error, capsys) == "interrupted\n"


def test_where_to_go_on_is_told(capsys):
    def main():
        raise KeyboardInterrupt("the last checkpoint is epoch_1.pth")

    told = "interrupted: the last checkpoint is epoch_1.pth\n"
    assert interrupted(main, capsys) == told


def test_errors_of_their_own_stay_errors(monkeypatch):
    with pytest.raises(ImportError), interrupts.in_one_line():
        raise ImportError
    monkeypatch.setattr(interrupts, "CAUSES_ERRORS", -1.0)  # as if long after
    with pytest.raises(ImportError), interrupts.in_one_line():
        told_by_another_error()


def test_an_ignored_interrupt_stays_ignored():
    code = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from trn_plugin import interrupts
with interrupts.in_one_line():
    signal.raise_signal(signal.SIGINT)
print("done")
"""
    assert run(code) == (0, "done\n", "")
