"""Arguments of the commands and tools."""

from __future__ import annotations

import argparse

from trn_plugin.errors import ConfigError

__all__ = ["build_parser", "positive_int"]


class Parser(argparse.ArgumentParser):
    """Its errors are ConfigError, one line as every other mistake of a user."""

    def error(self, message: str):
        raise ConfigError(f"{message.removeprefix('argument ')} ({self.prog} --help says more)")


def build_parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser whose help shows a module's docstring as it is written.

    Args:
        description: the docstring.
        prog: name of the program; default that of the process.
    """
    return Parser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def positive_int(text: str) -> int:
    """The type of an argument that counts something."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {value}")
    return value
