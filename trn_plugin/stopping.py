"""A run that is interrupted or asked to end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Terminated", "in_one_line"]

INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Tell an interrupt, or SIGTERM, of what runs inside in one line on stderr.

    Ends the process with exit status 130, or 143.
    """

    def terminate(signum, frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        ended = isinstance(error, Terminated)
        told = "terminated" if ended else "interrupted"
        print(": ".join([told, *filter(None, [str(error)])]), file=sys.stderr)
        sys.exit(TERMINATED if ended else INTERRUPTED)
    finally:
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, before)
