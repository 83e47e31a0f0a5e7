"""Ctrl-C in a tool is one line and exit status 130, from its first import on.

Importing this module in a program of ``tools/``, before anything else, makes an interrupt end that
program at once while it imports: as an exception it would come out of the middle of an import, and
some libraries lose it or turn it into an error of theirs.
"""

import os
import signal
import sys

STATUS = 130


def _leave(signum, frame) -> None:
    os.write(2, b"interrupted\n")
    os._exit(STATUS)


def _handle(handler):
    """Set the handler, and return the one before; None where the signal is not ours to handle."""
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.default_int_handler, _leave):
        return None
    try:
        return signal.signal(signal.SIGINT, handler)
    except ValueError:  # not in the main thread
        return None


_program = getattr(sys.modules.get("__main__"), "__file__", None)
if _program and os.path.basename(os.path.dirname(os.path.abspath(_program))) == "tools":
    _handle(_leave)

# what else is imported may be interrupted already
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402

__all__ = ["in_one_line"]

CAUSES_ERRORS = 30.0
"""Seconds; an error so soon after an interrupt is taken for its effect."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turn an interrupt of what runs inside into one line on stderr and exit status 130."""
    moments: list[float] = []

    def interrupt(signum, frame):
        moments.append(time.monotonic())
        raise KeyboardInterrupt

    before = _handle(interrupt)
    message = None
    try:
        yield
    except KeyboardInterrupt as error:
        message = str(error)
    except Exception:  # such as that of a library whose import was interrupted
        if not moments or time.monotonic() - moments[-1] > CAUSES_ERRORS:
            raise
        message = ""
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if message is not None:
        if before is _leave:  # another interrupt, before Python has ended, adds no line
            signal.signal(signal.SIGINT, lambda signum, frame: os._exit(STATUS))
        print(": ".join(["interrupted", *filter(None, [message])]), file=sys.stderr)
        sys.exit(STATUS)
