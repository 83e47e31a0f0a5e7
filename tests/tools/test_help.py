"""--help of every tool: what it does, its options, and examples that it takes."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = sorted((ROOT / "tools").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(f"help_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_help_has_examples_that_work(path, monkeypatch, capsys):
    module = load(path)
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as stop:
        module.parse_args()
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert module.__doc__.splitlines()[0] in text
    joined = re.sub(r"\\\n\s*", " ", text)
    examples = re.findall(r"^\s+(python tools/.*)$", joined, re.MULTILINE)
    assert examples, f"{path.name} --help shows no example"
    for example in examples:
        _, script, *arguments = shlex.split(example)
        assert script == f"tools/{path.name}"
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        module.parse_args()
        for config in (argument for argument in arguments if argument.startswith("configs/")):
            assert (ROOT / config).is_file()
