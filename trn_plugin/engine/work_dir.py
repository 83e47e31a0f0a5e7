"""Lock a work directory: one training at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from trn_plugin.errors import ConfigError

__all__ = ["only_run_in"]


@contextmanager
def only_run_in(folder: str | os.PathLike) -> Iterator[None]:
    """Lock a work directory until the training or its process ends; ConfigError if locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    # a record lock: freed by the kernel when the process dies, not inherited by workers
    with open(os.path.join(folder, ".running"), "a", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ConfigError(
                f"work_dir {folder}: another training is running in it; use another work directory"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
