"""Write checkpoints of plain data atomically."""

from __future__ import annotations

import os

import numpy as np
import torch

from trn_plugin.errors import CheckpointError, first_line
from trn_plugin.files import atomic_write

__all__ = ["plain", "save_checkpoint_file"]


def save_checkpoint_file(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write a checkpoint: temporary file, fsync, rename.

    Raises:
        CheckpointError: the file cannot be written.
    """
    with atomic_write(path, error=CheckpointError, lasting=True) as partial:
        try:
            with partial.open("wb") as file:
                torch.save(plain(checkpoint), file)
        except RuntimeError as error:  # torch does not say why a write failed
            if isinstance(error.__context__, KeyboardInterrupt):  # during the write
                raise error.__context__ from None
            raise OSError(f"{first_line(error)}; is the disk full?") from error


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
