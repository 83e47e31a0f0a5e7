"""Find the checkpoints of a work directory, and the one to resume from."""

from __future__ import annotations

import os
from pathlib import Path

from trn_plugin.checkpoints.reading import read_meta
from trn_plugin.errors import CheckpointError, NewerFormatError

__all__ = ["check_earlier", "checkpoint_files", "last_checkpoint_text", "newest_first"]


def checkpoint_files(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints of a work directory; if none, those of the folder in ``last_checkpoint``."""
    folder = Path(folder)
    paths, pointer = sorted(folder.glob("*.pth")), folder / "last_checkpoint"
    if not paths and pointer.is_file():
        newest = Path(pointer.read_text(encoding="utf-8", errors="replace").strip("\0 \n"))
        paths = sorted(newest.parent.glob("*.pth")) if newest.is_file() else []
    return [path for path in paths if path.is_file() and not path.name.startswith(".")]


def newest_first(folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Usable checkpoints of a work directory, the one to resume from first; errors of the others.

    Raises:
        NewerFormatError: a newer version of this package wrote one, which a run must not overwrite.
    """
    runs, problems = [], []
    for path in checkpoint_files(folder):
        try:
            meta, has_optimizer = read_meta(path)
        except CheckpointError as error:
            if isinstance(error, NewerFormatError):
                raise
            problems.append(str(error))
            continue
        if not isinstance(meta.get("epoch"), int) or not isinstance(meta.get("iter"), int):
            problems.append(f"{path}: its 'meta' has no epoch and iter")
            continue
        # prefer a full state to best weights alone, then progress, then a finished validation
        order = has_optimizer, meta["iter"], meta["epoch"], "metrics" in meta
        runs.append((order, str(path)))
    runs.sort(reverse=True)
    for (has_optimizer, iteration, *_), path in runs:
        if not has_optimizer and iteration > runs[0][0][1]:
            problems.append(f"{path}: it has no optimizer state, unlike an older checkpoint")
    return [path for _, path in runs], problems


def last_checkpoint_text(folder: str | os.PathLike) -> str:
    """The last checkpoint of a work directory, for messages."""
    paths = checkpoint_files(folder)
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
    return f"the last checkpoint is {newest}" if newest else "no checkpoint has been written yet"


def check_earlier(folder: str | os.PathLike, logger) -> None:
    """Refuse checkpoints of a newer version; warn of others, unless ``logger`` is None."""
    earlier, _ = newest_first(folder)
    if earlier and logger is not None:
        logger.warning(
            f"{earlier[0]} is of an earlier training; this one starts anew and may overwrite it "
            "(--resume continues)"
        )
