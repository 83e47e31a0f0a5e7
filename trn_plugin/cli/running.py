"""Running a command: what goes wrong is one line and an exit status."""

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
    """Read the arguments, run a command, and end the process with its exit status.

    Args:
        description: what --help says.
        add_arguments: takes the parser.
        main: takes the arguments; its exit status, None for 0.
        arguments: default those of the process.
        prog: name of the program; default that of the process.
    """

    def parse_and_run() -> int | None:
        parser = build_parser(description, prog)
        add_arguments(parser)
        return main(parser.parse_args(arguments))

    sys.exit(run(parse_and_run) or 0)


def run(main: Callable[[], int | None]) -> int | None:
    """Run a command; an error that its user can mend is one line on stderr and exit status 2.

    An interrupt is one line too, and exit status 130; so is SIGTERM, with 143.

    ``TRN_PLUGIN_TRACEBACK=1`` shows where it was raised.
    """
    logging.raiseExceptions = False  # a full disk is told once, below, not for each log line
    try:
        with in_one_line():
            return main()
    except (TrnPluginError, OSError, RuntimeError, MemoryError) as error:
        text = _told(error)
        if text is None or os.environ.get("TRN_PLUGIN_TRACEBACK") == "1":
            raise
        print(f"error: {printable(text, 2000)}", file=sys.stderr)
        sys.exit(2)


def _told(error: BaseException) -> str | None:
    """One line for what a user can mend; None for a defect of the program."""
    if isinstance(error, TrnPluginError):
        return one_line(error)
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC and not error.filename:
            return f"{error.strerror}: the disk of the work directory is full"
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}" if error.strerror else one_line(error)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return f"out of memory ({text[:120]}): a smaller batch_size or input_size needs less"
    if "DataLoader worker" in text and "Caught" not in text:
        return f"{text[:120]}: a smaller num_workers needs less memory"
    distributed = "torch.distributed" in sys.modules and sys.modules["torch.distributed"]
    if distributed and distributed.is_initialized() and ("gloo" in text or "NCCL" in text):
        return "another process of this run has ended; its own message says why"
    return None


def one_line(error: BaseException) -> str:
    """The message; of an error that a data-loader worker hands on, the worker's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or "DataLoader worker" not in lines[0]:
        return first_line(error)
    name, _, message = lines[-1].partition(": ")
    return message if name.endswith("Error") else lines[-1]
