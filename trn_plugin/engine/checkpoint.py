"""Checkpoints that hold numbers, strings and tensors only, and loading that runs nothing.

``weights_only=True`` is passed explicitly, so that no environment variable can weaken it. What
MMEngine's own checkpoints hold beyond tensors (``HistoryBuffer``, numpy's globals,
``builtins.getattr``) is replaced by stand-ins that accept anything and do nothing.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from trn_plugin.errors import CheckpointError, first_line

__all__ = [
    "load_checkpoint_file",
    "load_model_state",
    "load_weights_file",
    "plain",
    "save_checkpoint_file",
]


class _Inert:
    """Takes the place of any object in a checkpoint; has no behaviour."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state) -> None:
        pass


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
        CheckpointError: no such file, damaged, something in it that is not plain data, or no
            checkpoint.
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
    return checkpoint


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
        CheckpointError: names the first keys that differ.
    """
    own = model.state_dict()
    state = {key.removeprefix("module."): value for key, value in state.items()}
    missing = [key for key in own if key not in state and not _made_on_loading(key)]
    unexpected = [key for key in state if key not in own and not _made_on_loading(key)]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        f"{name} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for name, keys in (("lacks", missing), ("also holds", unexpected), ("has", shapes))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{path} is of another model than the config's: it {'; it '.join(problems)}"
        )
    model.load_state_dict(state, strict=False)


def save_checkpoint_file(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write a checkpoint of plain data, whole or not at all (temporary file, fsync, rename).

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            torch.save(plain(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written: {first_line(error)}"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


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
    """Normalisation that belongs to the config; MMEngine's own preprocessor saves it."""
    return key.startswith("data_preprocessor.")


def _existing(path: str | os.PathLike) -> str:
    path = os.fspath(path)
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: expected a checkpoint file, found a folder")
    if not os.path.exists(path):
        raise CheckpointError(f"{path}: no such checkpoint file")
    return path


def _load(path: str | os.PathLike, map_location):
    path = _existing(path)
    stand_ins = [(_stand_in(name), name) for name in _STAND_INS]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it is damaged or holds more than plain data: {_reason(error)}"
        ) from None
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        found = line.partition("WeightsUnpickler error:")[2].strip()
        if found:
            return found.split(". ")[0]
    text = first_line(error).split(". ")[0]
    return "it is no checkpoint" if text.startswith("Weights only load failed") else text


def _stand_in(name: str) -> type:
    return type(name.rsplit(".", 1)[1], (_Inert,), {})
