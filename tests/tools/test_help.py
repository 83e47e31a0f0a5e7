"""--help of every command, benchmark and tool shows examples that its parser accepts."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from reproduction import main as reproduction
from tool_runs import TOOLS, load

from trn_plugin.cli import COMMANDS, main
from trn_plugin.cli.parsing import build_parser

CONFIGS = TOOLS.parent / "configs"
SCRIPTS = [
    path
    for path in [*TOOLS.glob("*.py"), *TOOLS.glob("benchmarks/*.py")]
    if "\nif __name__" in path.read_text(encoding="utf-8")
    and "trn_plugin.cli import main" not in path.read_text(encoding="utf-8")
]


def check(module, begins):
    parser = build_parser(module.__doc__, begins)
    module.add_arguments(parser)
    text = parser.format_help()
    assert module.__doc__.splitlines()[0] in text
    joined = re.sub(r"\\\n\s*", " ", text)
    examples = re.findall(rf"^\s+{re.escape(begins)} (.*)$", joined, re.MULTILINE)
    assert examples, f"{begins} --help shows no example"
    for example in examples:
        arguments = shlex.split(example)
        parser.parse_args(arguments)
        for argument in arguments:
            if argument.startswith(("configs/", "trn_plugin::")):
                assert (CONFIGS / re.split("configs/|::", argument)[1]).is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name, capsys):
    check(import_module(f"trn_plugin.cli.{COMMANDS[name][0]}"), f"trn-plugin {name}")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert f"usage: trn-plugin {name}" in capsys.readouterr().out


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_tools(path):
    module = reproduction if path.stem == "reproduce" else load(path.stem)
    check(module, f"python {path.relative_to(TOOLS.parent)}")


def test_each_command_has_its_tool():
    texts = [path.read_text(encoding="utf-8") for path in Path(TOOLS).glob("*.py")]
    for name in COMMANDS:
        assert any(f'main(["{name}", *sys.argv[1:]])' in text for text in texts), name


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([], 0, "usage: trn-plugin COMMAND"),
        (["--version"], 0, "trn-plugin 0."),
        (["tune"], 2, "expected one of the commands train, test"),
        (["train"], 2, "error: the following arguments are required: config"),
        (["predict", "m.onnx", "--batch-size", "0"], 2, "--batch-size: expected at least 1"),
    ],
)
def test_the_entry_point(arguments, status, told, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == status
    printed = capsys.readouterr()
    assert told in printed.out + printed.err
