"""Run a command; report the errors that a user can fix in one line, with an exit status."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from trn_plugin.cli.parsing import build_parser
from trn_plugin.errors import TrnPluginError, first_line, printable
from trn_plugin.stopping import in_one_line

__all__ = ["one_line", "run", "start"]


def start(
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    main: Callable[[argparse.Namespace], int | None],
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> NoReturn:
    """Parse the arguments, run a command, and exit with its exit status.

    Args:
        description: text of --help.
        add_arguments: adds the command's arguments to the parser.
        main: the command, called with the parsed arguments and ``command_line``, a list;
            returns an exit status, None for 0.
        arguments: default ``sys.argv[1:]``.
        prog: name of the program; default the name of the running script.
    """

    def parse_and_run() -> int | None:
        parser = build_parser(description, prog)
        add_arguments(parser)
        given = sys.argv[1:] if arguments is None else arguments
        typed = argparse.Namespace(command_line=[*parser.prog.split(), *given])
        return main(parser.parse_args(given, typed))

    sys.exit(run(parse_and_run) or 0)


def run(main: Callable[[], int | None]) -> int | None:
    """Run a command; print an error that the user can fix as one line, and exit with status 2.

    An interrupt prints one line and exits with 130, SIGTERM with 143. ``TRN_PLUGIN_TRACEBACK=1``
    raises the error with its traceback.
    """
    logging.raiseExceptions = False  # report a full disk once, not for each log line
    try:
        with in_one_line():
            return main()
    except (TrnPluginError, OSError, RuntimeError, MemoryError) as error:
        text = _user_message(error)
        if text is None or os.environ.get("TRN_PLUGIN_TRACEBACK") == "1":
            raise
        print(f"error: {printable(text, 2000)}", file=sys.stderr)
        sys.exit(2)


def _user_message(error: BaseException) -> str | None:
    """One line for an error that the user can fix; None for a bug."""
    if isinstance(error, TrnPluginError):
        return one_line(error)
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC and not error.filename:
            return f"{error.strerror}: the disk of the work directory is full"
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}" if error.strerror else one_line(error)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return f"out of memory ({text[:120]}): reduce batch_size or input_size"
    if "DataLoader worker" in text and "Caught" not in text:
        return f"{text[:120]}: reduce num_workers to save memory"
    distributed = "torch.distributed" in sys.modules and sys.modules["torch.distributed"]
    if distributed and distributed.is_initialized() and ("gloo" in text or "NCCL" in text):
        return "another process of this run has ended; see its error message"
    return None


def one_line(error: BaseException) -> str:
    """The error's message in one line; for an error of a data-loader worker, the original one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or "DataLoader worker" not in lines[0]:
        return first_line(error)
    name, _, message = lines[-1].partition(": ")
    return message if name.endswith("Error") else lines[-1]
