"""Argument parsing of the commands and tools."""

from __future__ import annotations

import argparse

from trn_plugin.errors import ConfigError

__all__ = ["build_parser", "positive_int"]


class Parser(argparse.ArgumentParser):
    """Raises its errors as ConfigError."""

    def error(self, message: str):
        raise ConfigError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def build_parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser whose --help prints ``description`` with its line breaks.

    Args:
        description: a module's docstring.
        prog: name of the program; default the name of the running script.
    """
    return Parser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def positive_int(text: str) -> int:
    """Argument type: a whole number of 1 or more."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {value}")
    return value
