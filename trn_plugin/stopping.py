"""End a run on an interrupt or SIGTERM."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Terminated", "in_one_line"]

INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn an interrupt or SIGTERM into one line on stderr and exit status 130 or 143."""

    def terminate(signum, frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ignore repeated signals
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Terminated)
        reason = "terminated" if terminated else "interrupted"
        print(": ".join([reason, *filter(None, [str(error)])]), file=sys.stderr)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    finally:
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, before)
