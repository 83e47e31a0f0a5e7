"""Which checkpoints a run can go on from."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process

from trn_plugin.engine import run_state
from trn_plugin.engine.checkpoint import NewerFormatError, read_meta
from trn_plugin.errors import CheckpointError

__all__ = ["checkpoint_files", "last_checkpoint_text", "newest_first", "resume_newest"]


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


def newest_first(folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """The checkpoints of a work directory, by their metadata alone.

    Args:
        folder: work directory of a run.

    Returns:
        Their paths, the one of the highest iteration first, those with an optimizer's state
        before all others; and what is wrong with those that cannot be read.

    Raises:
        NewerFormatError: one of them is of a newer version, whose run this one would overwrite.
    """
    runs, problems = [], []
    for path in checkpoint_files(folder):
        try:
            meta, has_optimizer = read_meta(path)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if isinstance(meta.get("epoch"), int) and isinstance(meta.get("iter"), int):
            # first those that go on exactly, so not the best one's weights alone; of those of
            # one iteration that of whole epochs, and the one validated already
            order = has_optimizer, meta["iter"], meta["epoch"], "metrics" in meta
            runs.append((order, str(path)))
    return [path for _, path in sorted(runs, reverse=True)], problems


def last_checkpoint_text(folder: str | os.PathLike) -> str:
    """Where a run that ends now can be resumed from."""
    paths = checkpoint_files(folder)
    if not paths:
        return "no checkpoint has been written yet"
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns)
    return f"the last checkpoint is {newest}"


def resume_newest(runner) -> None:
    """Resume from the first checkpoint that all processes can use, the newest before others.

    Raises:
        CheckpointError: there are some, but none can be used.
    """
    found = [newest_first(runner.work_dir) if is_main_process() else ([], [])]
    broadcast_object_list(found)
    paths, unreadable = found[0]
    start, failed = run_state.built(runner), []
    for path in paths:
        problem = None
        try:
            runner.resume(path)
        except CheckpointError as error:
            problem = str(error)
            run_state.start_again(runner, start)
        told = [text for text in all_gather_object(problem) if text]
        if not told:
            break
        runner.resumed_from = None
        failed.append(told[0])
    problems = failed + unreadable
    for problem in problems:
        runner.logger.warning(f"not resumed from: {problem}")
    if runner.resumed_from is None and problems:
        raise CheckpointError(
            f"no checkpoint in {runner.work_dir} can be resumed from: {problems[0]}"
        )
    if runner.resumed_from is None:
        runner.logger.warning(
            f"--resume: there is no checkpoint in {runner.work_dir}; starting from the beginning"
        )
