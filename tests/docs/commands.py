"""Shell blocks, run by a real shell whose programs only record how they were called.

What was recorded is then checked: arguments with the program's own parser, configs by reading them
and building the model, hooks and metrics that they describe.
"""

import contextlib
import json
import os
import re
import subprocess
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import tool_runs
from pages import ROOT

from trn_plugin.cli import COMMANDS
from trn_plugin.cli.config import load_config, work_dir
from trn_plugin.cli.parsing import build_parser
from trn_plugin.engine.building import replaced
from trn_plugin.engine.hooks import OWN
from trn_plugin.experiments.grid import parse_options
from trn_plugin.registry import HOOKS, METRICS, MODELS

PROGRAMS = (
    "python",
    "python3",
    "pip",
    "trn-plugin",
    "torchrun",
    "pytest",
    "ruff",
    "mkdocs",
    "bash",
    "git",
    "npm",
)
STUB = r"""#!/bin/bash
{ printf '%s\0' "$PWD" "$(basename "$0")" "$@"; printf '\1'; } >> "$TRN_RECORD"
"""
_built = set()
_epochs = {}


@contextlib.contextmanager
def inside(folder):
    """With ``folder`` as the working directory (contextlib.chdir is new in Python 3.11)."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def install_programs(folder):
    """Write the recording programs, also as those of a virtual environment in ``folder``."""
    for place in (folder / ".programs", folder / ".venv/bin"):
        place.mkdir(parents=True)
        for program in PROGRAMS:
            (place / program).write_text(STUB)
            (place / program).chmod(0o755)
    (folder / ".venv/bin/activate").touch()


def recorded(text, folder):
    """The calls, [(folder, program, arguments)], that a shell block makes."""
    record = folder / ".programs/record"
    record.write_bytes(b"")
    path = f"{folder / '.programs'}:/usr/bin:/bin"
    roots = {name: str(folder / "data") for name in ("MTFL_ROOT", "CELEBA_ROOT")}
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={"PATH": path, "TRN_RECORD": str(record), "HOME": str(folder), **roots},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    calls = [call.split("\0")[:-1] for call in record.read_text().split("\1")[:-1]]
    return [(Path(folder), program, arguments) for folder, program, *arguments in calls]


def check(folder, program, arguments):
    """One call.

    Raises:
        AssertionError: it names a file or an extra that is not there.
        ConfigError: its own parser refuses it, or its config cannot be used.
    """
    if program == "torchrun":
        script = next(i for i, argument in enumerate(arguments) if argument.endswith(".py"))
        program, arguments = "python", arguments[script:]
    if program in ("python", "python3"):
        if arguments[:2] == ["-m", "trn_plugin"]:
            program, arguments = "trn-plugin", arguments[2:]
        elif arguments[0] == "-m":
            program, arguments = arguments[1], arguments[2:]
    if program in ("python", "python3"):
        _check_script(folder, arguments[0], arguments[1:])
    elif program == "trn-plugin":
        _check_command(folder, arguments[0], arguments[1:])
    elif program == "pip":
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for extras in re.findall(r"(?:trn-plugin|\.)\[([\w,]+)\]", " ".join(arguments)):
            for extra in extras.split(","):
                assert f"\n{extra} = [" in project, extra
    elif program in ("pytest", "bash"):
        for argument in arguments:
            if "/" in argument:
                assert (ROOT / argument.split("::")[0]).exists(), argument
    else:
        known = ("git", "http.server", "mkdocs", "npm", "ruff", "venv")
        assert program in known, program


def _check_script(folder, script, arguments):
    script = os.path.relpath((folder / script).resolve(), ROOT)
    assert (ROOT / script).is_file(), script
    source = (ROOT / script).read_text(encoding="utf-8")
    command = re.search(r'main\(\["([\w-]+)", \*sys\.argv', source)
    if command:  # a few lines that call the command
        _check_command(folder, command[1], arguments)
        return
    if script == "tools/reproduce.py":
        module = import_module("reproduction.main")
        with inside(folder):  # --list checks the scale and the rows too
            module.main(_parsed(module, [*arguments, "--list"]))
    else:
        module = tool_runs.load(Path(script).stem) if script.startswith("tools") else None
    if hasattr(module, "add_arguments"):
        _check_config(folder, _parsed(module, arguments))
    else:
        assert all(a in source for a in arguments if a.startswith("--")), arguments


def _check_command(folder, command, arguments):
    if command in ("--help", "--version"):
        return
    assert command in COMMANDS, command
    module = import_module(f"trn_plugin.cli.{COMMANDS[command][0]}")
    args = _parsed(module, arguments)
    config = _check_config(folder, args)
    if config is not None and command == "train":  # what a training leaves for other commands
        place = folder / work_dir(config, args.work_dir, args.config)
        place.mkdir(parents=True, exist_ok=True)
        config.dump(str(place / f"{Path(args.config).stem}.py"))
        _epochs[folder, args.config] = config.train_cfg.max_epochs


def _parsed(module, arguments) -> Namespace:
    parser = build_parser("")
    module.add_arguments(parser)
    return parser.parse_args(arguments)


def _check_config(folder, args):
    """Read and build what a command's config says; the config, None if there is none."""
    if not str(getattr(args, "config", None) or "").endswith((".py", ".yaml", ".yml", ".json")):
        return None
    options = getattr(args, "cfg_options", None)
    if isinstance(options, list):  # of a sweep
        options = parse_options(args.config, options)
    with inside(folder):
        config = load_config(args.config, options)
    build(config)
    epoch = re.search(r"epoch_(\d+)\.pth$", str(getattr(args, "checkpoint", None)))
    if epoch:
        trained = _epochs.get((folder, args.config), config.train_cfg.max_epochs)
        assert int(epoch[1]) == trained, f"{args.config}: {epoch[0]}, but {trained} epochs"
    return config


def build(config):
    """The model, the hooks and the metrics of a config, without weights from anywhere."""
    config.model.backbone.update(pretrained=False, checkpoint_path=None)
    parts = [(MODELS, config.model)]
    parts += [(HOOKS, replaced(hook, OWN)) for hook in config.get("custom_hooks", [])]
    for evaluator in (config.get("val_evaluator"), config.get("test_evaluator")):
        listed = evaluator if isinstance(evaluator, list) else [evaluator]
        parts += [(METRICS, metric) for metric in listed if metric]
    for registry, part in parts:
        key = json.dumps(part, sort_keys=True, default=str)
        if key not in _built:
            registry.build(part)
            _built.add(key)
