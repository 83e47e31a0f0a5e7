"""Tools, run in this process as a shell would."""

import importlib.util
from pathlib import Path

import pytest

from trn_plugin.engine import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """A function that runs a tool with arguments: its exit status, output and errors."""

    def run(name, *arguments):
        spec = importlib.util.spec_from_file_location("tool", ROOT / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
        try:
            cli.run(module.main)
            status = 0
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
