"""Which checkpoint a run goes on from."""

from __future__ import annotations

import os
from pathlib import Path

from trn_plugin.engine.checkpoint import load_checkpoint_file, read_meta
from trn_plugin.errors import CheckpointError

__all__ = ["checkpoint_files", "newest_checkpoint"]


def checkpoint_files(folder: str | os.PathLike) -> list[Path]:
    """The checkpoints in a work directory; where there are none, those that it points to.

    MMEngine names the newest one, which ``out_dir`` may have put elsewhere, in a file.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*.pth"))
    pointer = folder / "last_checkpoint"
    if not paths and pointer.is_file():
        try:
            paths = sorted(Path(pointer.read_text(encoding="utf-8").strip()).parent.glob("*.pth"))
        except (OSError, ValueError):  # whatever is in it, it names no folder
            paths = []
    return [path for path in paths if path.is_file() and not path.name.startswith(".")]


def newest_checkpoint(folder: str | os.PathLike, logger) -> str | None:
    """The readable checkpoint of the highest iteration in a work directory, with an optimizer's
    state if any has one.

    Args:
        folder: work directory of a run.
        logger (logging.Logger): is told of the files that cannot be read.

    Returns:
        str | None: None if there is no checkpoint at all.

    Raises:
        CheckpointError: there are some, but none can be read.
    """
    problems, runs = [], []
    for path in checkpoint_files(folder):
        try:
            meta, has_optimizer = read_meta(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if isinstance(meta.get("epoch"), int) and isinstance(meta.get("iter"), int):
            # first those that go on exactly, so not the best one's weights alone; of those of
            # one iteration that of whole epochs, and the one validated already
            order = has_optimizer, meta["iter"], meta["epoch"], "metrics" in meta
            runs.append((order, path))
    newest = None
    for _, path in sorted(runs, reverse=True):
        try:
            load_checkpoint_file(path)
            newest = str(path)
            break
        except CheckpointError as error:
            problems.append(str(error))
    for problem in problems:
        logger.warning(f"not resumed from: {problem}")
    if problems and newest is None:
        raise CheckpointError(f"no checkpoint in {folder} can be resumed from: {problems[-1]}")
    return newest
