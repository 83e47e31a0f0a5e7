"""The commands of ``trn-plugin``, one module each.

For scripts::

    config = load_config("trn_plugin::toy/mtl_test-resnet_toy.py", {"train_cfg.max_epochs": 1})
    build_runner(config).train()

Importing this package imports neither torch nor MMEngine; ``trn-plugin predict`` needs neither.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import trn_plugin
from trn_plugin.cli.running import start

__all__ = ["build_runner", "load_config", "main"]

COMMANDS = {
    "train": ("train", "train a model from a config"),
    "test": ("test", "measure a checkpoint or an exported file"),
    "export": ("export", "write a checkpoint as one ONNX file"),
    "predict": ("predict", "run an exported file on pictures and videos"),
    "browse": ("browse", "draw the samples that training sees"),
    "similarity": ("similarity", "measure how related the tasks' labels, outputs and features are"),
    "advise": ("advise", "measure how related the tasks are at each stage of the backbone"),
    "sweep": ("sweep", "train a grid of settings; compare accuracy, parameters and latency"),
    "to-timm": ("to_timm", "write the weights of one task's trunk and tail for a timm model"),
}


def __getattr__(name: str):
    if name not in ("build_runner", "load_config"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("trn_plugin.cli.config"), name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``trn-plugin COMMAND ARGUMENTS`` and exit with the command's exit status.

    Args:
        arguments: the command and its arguments; default ``sys.argv[1:]``.
    """
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command == "--version":
        print(f"trn-plugin {trn_plugin.__version__}")
        sys.exit(0)
    if command in ("-h", "--help"):
        print("usage: trn-plugin COMMAND [ARGUMENTS]; for details: trn-plugin COMMAND --help\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:12}{summary}")
        print(f"  {'--version':12}print the version")
        sys.exit(0)
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        sys.exit(_error(f"expected one of the commands {known}, found {command!r}"))
    try:
        module = import_module(f"trn_plugin.cli.{COMMANDS[command][0]}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "trn_plugin"):
            raise
        sys.exit(_error(f"trn-plugin {command} needs {missing}, which is not installed here"))
    start(module.__doc__, module.add_arguments, module.main, rest, f"trn-plugin {command}")


def _error(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2
