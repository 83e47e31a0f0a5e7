"""Checkpoints that hold numbers, strings and tensors only, and loading that runs nothing.

``weights_only=True`` is passed explicitly, so that no environment variable can weaken it. What
MMEngine's own checkpoints hold beyond tensors (``HistoryBuffer``, numpy's globals,
``builtins.getattr``) is replaced by stand-ins that accept anything and do nothing. The archive is
looked at before torch reads it: its records' names, and that they hold what the tensors declare.
"""

from __future__ import annotations

import glob
import os
import pickle
import re
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

import trn_plugin
from trn_plugin.engine._archive import Inert, check_archive, check_sizes, is_archive
from trn_plugin.errors import CheckpointError, first_line, printable

__all__ = [
    "FORMAT",
    "load_checkpoint_file",
    "load_model_state",
    "load_weights_file",
    "plain",
    "read_meta",
    "save_checkpoint_file",
]


FORMAT = 1
"""Of the checkpoints; one more whenever an older version could not read them rightly."""

TEMPORARY = ".part"

_SWITCHES = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD")

_STATISTICS = ("running_mean", "running_var")

_STAND_INS = [
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Int32DType",
    "numpy.dtypes.Int64DType",
]


def load_checkpoint_file(path: str | os.PathLike, map_location="cpu") -> dict:
    """Read a checkpoint of this package or of MMEngine, executing nothing that it holds.

    Args:
        path: a file.
        map_location: as of ``torch.load``.

    Returns:
        dict: with 'state_dict' and 'meta' (which may be empty).

    Raises:
        CheckpointError: no such file, damaged, something in it that is not plain data, no
            checkpoint, or one of a newer version.
    """
    checkpoint = _load(path, map_location)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        keys = f"keys {sorted(map(str, checkpoint))[:5]}" if isinstance(checkpoint, dict) else ""
        raise CheckpointError(
            f"{path}: expected a checkpoint with 'state_dict', found "
            f"{type(checkpoint).__name__} {keys}".rstrip()
        )
    _check_weights(checkpoint["state_dict"], path)
    meta = checkpoint.setdefault("meta", {})
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path}: expected 'meta' to be a dict, found {type(meta).__name__}")
    if "trn_plugin_version" in meta:
        _check_written_here(meta, path)
    return checkpoint


def read_meta(path: str | os.PathLike) -> tuple[dict, bool]:
    """The 'meta' of a checkpoint and whether it has an optimizer's state, without its tensors.

    Raises:
        CheckpointError: as :func:`load_checkpoint_file`, as far as that can be seen.
    """
    checkpoint = _load(path, "cpu", mmap=is_archive(path))
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    return (meta, "optimizer" in checkpoint) if isinstance(meta, dict) else ({}, False)


def load_weights_file(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read weights by name: a state dict, a checkpoint that has one, or a .safetensors file.

    Raises:
        CheckpointError: as :func:`load_checkpoint_file`.
    """
    if str(path).endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(_existing(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
    weights = _load(path, "cpu")
    for key in ("state_dict", "model"):
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path}: expected weights by name, found {type(weights).__name__}")
    _check_weights(weights, path)
    return weights


def load_model_state(
    model: nn.Module, state: dict[str, torch.Tensor], path: str | os.PathLike
) -> None:
    """Load ``state`` into ``model``, every name and shape fitting.

    Raises:
        CheckpointError: names the first keys that differ, or a weight or running moment that is
            not finite.
    """
    own = model.state_dict()
    state = {key.removeprefix("module."): value for key, value in state.items()}
    missing = [key for key in own if key not in state and not _made_on_loading(key)]
    unexpected = [key for key in state if key not in own and not _made_on_loading(key)]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape and not key.endswith("_extra_state")
    ]
    listings = (("lacks", missing), ("also holds", unexpected), ("has", shapes))
    problems = [f"{name} {listed(keys)}" for name, keys in listings if keys]
    if problems:
        raise CheckpointError(
            f"{path} is of another model than the config's: it {'; it '.join(problems)}"
        )
    trained = dict(model.named_parameters())
    for key, value in state.items():
        # other buffers, such as masks of attention, may hold -inf
        counts = key in trained or key.startswith("neck.") or key.endswith(_STATISTICS)
        if counts and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: the values of {printable(key)} are not finite")
    model.load_state_dict(state, strict=False)


def listed(keys: list[str]) -> str:
    """The first three of some names, and how many there are more."""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(printable(key) for key in keys[:3]) + more


def save_checkpoint_file(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write a checkpoint of plain data, whole or not at all (temporary file, fsync, rename).

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
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


def _check_weights(weights: dict, path: str | os.PathLike) -> None:
    for name, value in weights.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: expected weights by name, found the key {name!r}")
        if not torch.is_tensor(value) or value.layout != torch.strided or value.is_meta:
            found = type(value).__name__
            if torch.is_tensor(value):
                found = f"a {value.layout} tensor on {value.device}"
            raise CheckpointError(f"{path}: expected {name!r} to be a dense tensor, found {found}")


def _made_on_loading(key: str) -> bool:
    """Normalisation that belongs to the config; covariances and solver states of the neck.

    The neck starts those of an earlier version anew, and solver states of another device.
    """
    if key.startswith("neck."):
        return ".groups." in key or ".warm." in key or key.endswith("_extra_state")
    return key.startswith("data_preprocessor.")


def _existing(path: str | os.PathLike) -> str:
    path = os.fspath(path)
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: expected a checkpoint file, found a folder")
    if not os.path.exists(path):
        raise CheckpointError(f"{path}: no such checkpoint file")
    return path


def _load(path: str | os.PathLike, map_location, mmap: bool = False):
    path = _existing(path)
    switches = [n for n in _SWITCHES if os.environ.get(n) in ("1", "y", "yes", "true")]
    if len(switches) == 2:  # torch then reads nothing, and one of them would change nothing here
        raise CheckpointError(f"the environment sets both {' and '.join(switches)}: unset one")
    try:
        if os.path.getsize(path) == 0:
            raise CheckpointError(f"{path}: the file is empty (0 bytes)")
        check_archive(path)
        with _stand_ins_only():
            loaded = torch.load(path, map_location, weights_only=True, mmap=mmap)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it is damaged or holds more than plain data: {_reason(error)}"
        ) from None
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {_reason(error)}") from None
    check_sizes(loaded, path)
    return loaded


@contextmanager
def _stand_ins_only() -> Iterator[None]:
    """What others of this process have allowed in checkpoints is not allowed in here."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(_stand_in(name), name) for name in _STAND_INS])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _check_written_here(meta: dict, path: str | os.PathLike) -> None:
    """Format and checksums of a checkpoint of this package."""
    version = meta.get("trn_plugin_format", 0)
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(
            f"{path}: written by a newer version of trn_plugin "
            f"({printable(meta['trn_plugin_version'])}, format {printable(version)}); this one, "
            f"{trn_plugin.__version__}, reads up to format {FORMAT}"
        )
    if not is_archive(path):  # the format before torch 1.6 has no checksums
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged, {damaged} does not have its checksum")


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


def _reason(error: Exception) -> str:
    called = re.search(r"GLOBAL (\S+)", str(error))
    if called:
        return f"it would call {printable(called[1].rstrip('.'))}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        found = line.partition("WeightsUnpickler error:")[2].strip()
        if found:
            return found.split(". ")[0]
    text = first_line(error).split(". ")[0]
    return "it is no checkpoint" if text.startswith("Weights only load failed") else text


def _stand_in(name: str) -> type:
    return type(name.rsplit(".", 1)[1], (Inert,), {})
