"""Write checkpoints of plain data atomically."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch

from trn_plugin.checkpoints.reading import read_meta
from trn_plugin.errors import CheckpointError, NewerFormatError, first_line
from trn_plugin.files import atomic_write

__all__ = ["plain", "save_checkpoint_file"]


def save_checkpoint_file(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write a checkpoint: temporary file, fsync, rename.

    Raises:
        NewerFormatError: the existing file is of a newer version of this package.
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    try:
        if path.exists():
            read_meta(path)
    except NewerFormatError as error:
        raise NewerFormatError(f"{error}; it is not overwritten: use another work_dir") from None
    except CheckpointError:  # any other file may be replaced
        pass
    with atomic_write(path, error=CheckpointError, lasting=True) as partial, _Sink(partial) as sink:
        try:
            torch.save(plain(checkpoint), sink)
        except RuntimeError as error:  # torch hides the reason of a failed write
            raise sink.error or OSError(first_line(error)) from error


class _Sink(io.BufferedWriter):
    """A file that stores the reason of a failed write."""

    error: OSError | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def plain(value):
    """Convert data to dicts, lists, tuples, numbers, strings and tensors.

    NumPy arrays become tensors, NumPy scalars numbers; other objects become the names of their
    types.
    """
    if value is None:
        return None
    for kind in (bool, int, float, str, bytes):  # converts subclasses, which a pickle would name
        if isinstance(value, kind) and not isinstance(value, np.generic):
            return kind(value)
    if torch.is_tensor(value):
        return value.detach().cpu()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()) if value.dtype.kind in "biuf" else value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    return getattr(value, "__qualname__", type(value).__qualname__)
