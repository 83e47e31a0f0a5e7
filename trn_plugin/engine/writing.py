"""Checkpoints of plain data, written whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
from pathlib import Path

import numpy as np
import torch

from trn_plugin.engine.checkpoint import NewerFormatError, read_meta
from trn_plugin.errors import CheckpointError, first_line

__all__ = ["plain", "refuse_newer", "save_checkpoint_file"]

TEMPORARY = ".part"


def save_checkpoint_file(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write a checkpoint of plain data, whole or not at all (temporary file, fsync, rename).

    Raises:
        NewerFormatError: there is a file that a newer version of this package has written.
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    refuse_newer(path)
    temporary = None
    sink = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
            left.unlink()  # of a run that was killed while it wrote
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}"
        with open(temporary, "xb") as file:
            sink = _Sink(file)
            torch.save(plain(checkpoint), sink)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        cause = (sink and sink.error) or error
        reason = getattr(cause, "strerror", None) or first_line(cause)
        raise CheckpointError(f"{path}: the checkpoint could not be written: {reason}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def refuse_newer(path: Path) -> None:
    """Refuse to write over a checkpoint of a newer version; any other file may be replaced.

    Raises:
        NewerFormatError: naming the file.
    """
    try:
        if path.exists():
            read_meta(path)
    except NewerFormatError as error:
        raise NewerFormatError(f"{error}; it is not overwritten: take another work_dir") from None
    except CheckpointError:
        return


class _Sink:
    """Remembers why a write failed; torch's own error does not say."""

    def __init__(self, file) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing: the file is flushed, with its errors, when all is written."""


def plain(value):
    """The same data in dicts, lists, tuples, numbers, strings and tensors.

    Numpy arrays become tensors, numpy scalars numbers; what has no plain form becomes its name.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        # subclasses of str and int would be pickled as classes of their own
        for kind in (bool, int, float, str, bytes):
            if isinstance(value, kind):
                return kind(value)
        return None
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


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # not on Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
