"""Read checkpoints without executing anything that they hold.

``weights_only=True`` is passed explicitly, so no environment variable can weaken it. Objects in
MMEngine's own checkpoints are replaced with stand-ins without behaviour.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch

import trn_plugin
from trn_plugin.checkpoints._archive import Inert, check_archive, check_sizes, is_archive
from trn_plugin.errors import CheckpointError, NewerFormatError, first_line, printable, shown

__all__ = ["FORMAT", "load_checkpoint_file", "load_weights_file", "read_meta"]

FORMAT = 1
"""Version of the checkpoint format; incremented when older versions would misread it."""
EXTRA_STATE = "_extra_state"
"""Suffix of the keys of ``get_extra_state``, which may be any plain data."""
STAND_INS = (
    *("argparse.Namespace", "builtins.getattr", "mmengine.logging.history_buffer.HistoryBuffer"),
    *("numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar"),
    *("numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar"),
    *("numpy.ndarray", "numpy.dtype", "numpy.dtypes.Float32DType", "numpy.dtypes.Float64DType"),
    *("numpy.dtypes.Int32DType", "numpy.dtypes.Int64DType"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath"),
    *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),  # Python 3.13
)


def load_checkpoint_file(path: str | os.PathLike, map_location="cpu") -> dict:
    """Read a checkpoint of this package or of MMEngine.

    Returns:
        dict: with 'state_dict' and 'meta' (which may be empty).

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, of a newer version, or
            holds more than plain data.
    """
    checkpoint = _load(path, map_location)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError(
            f"{path}: expected a checkpoint with 'state_dict', found {type(checkpoint).__name__}"
            + (f" of {shown(list(checkpoint))}" if isinstance(checkpoint, dict) else "")
        )
    _check_weights(checkpoint["state_dict"], path)
    meta = checkpoint.setdefault("meta", {})
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path}: expected 'meta' to be a dict, found {type(meta).__name__}")
    if "trn_plugin_version" in meta:
        _check_format(meta, path)
        if is_archive(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(f"{path}: damaged, the checksum of {damaged} does not match")
    return checkpoint


def read_meta(path: str | os.PathLike) -> tuple[dict, bool]:
    """The 'meta' of a checkpoint, and whether it has an optimizer state; does not read tensors."""
    checkpoint = _load(path, "cpu", mmap=True)
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    if not isinstance(meta, dict):
        return {}, False
    _check_format(meta, path)
    return meta, "optimizer" in checkpoint


def load_weights_file(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read weights by name from a state dict, a checkpoint or a .safetensors file.

    As timm does, takes a checkpoint's averaged weights if it has them.

    Raises:
        CheckpointError: see :func:`load_checkpoint_file`.
    """
    if str(path).endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return unwrapped(load_file(path))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
    weights = _load(path, "cpu")
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path}: expected weights by name, found {type(weights).__name__}")
    _check_weights(weights, path)
    return unwrapped(weights)


def unwrapped(weights: dict) -> dict:
    """Remove the prefixes that DDP and ``torch.compile`` add to names."""
    for prefix in ("module.", "_orig_mod.") * 2:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _check_weights(weights: dict, path: str | os.PathLike) -> None:
    for name, value in weights.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: expected weights by name, found the key {shown(name)}")
        if name.endswith(EXTRA_STATE):
            continue
        if found := _unsupported_kind(value):
            raise CheckpointError(
                f"{path}: expected {printable(name)!r} to be a dense tensor, found {found}"
            )
        if name.endswith("running_var") and bool((value < 0).any()):
            raise CheckpointError(f"{path}: the values of {printable(name)} are negative")


def _unsupported_kind(value) -> str:
    """Describe a value that no model can load as a weight; empty for dense tensors."""
    if not torch.is_tensor(value):
        return type(value).__name__
    if value.layout != torch.strided or value.is_meta or value.is_nested:
        return f"a {value.layout} tensor on {value.device}"
    small = value.dtype.is_floating_point and value.element_size() < 2  # float8 has no arithmetic
    unsupported = value.is_complex() or value.is_quantized or small
    return f"a tensor of {value.dtype}" if unsupported else ""


def _load(path: str | os.PathLike, map_location, mmap: bool = False):
    path = os.fspath(path)
    try:
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            raise CheckpointError(f"{path}: the file is empty (0 bytes)")
        check_archive(path)
        with _stand_ins_only():
            mmap = mmap and is_archive(path)
            loaded = torch.load(path, map_location, weights_only=True, mmap=mmap)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it is damaged or holds more than plain data: {_reason(error)}"
        ) from None
    except Exception as error:  # damaged files raise all kinds of errors
        reason = getattr(error, "strerror", None) or _reason(error)
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {reason}") from None
    check_sizes(loaded, path)
    return loaded


@contextmanager
def _stand_ins_only() -> Iterator[None]:
    """Temporarily replace the safe globals of torch with the stand-ins."""
    others = torch.serialization.get_safe_globals()
    own = [(type(name.rsplit(".", 1)[1], (Inert,), {}), name) for name in STAND_INS]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(own)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _check_format(meta: dict, path: str | os.PathLike) -> None:
    version = meta.get("trn_plugin_format", 0)
    if "trn_plugin_version" in meta and (not isinstance(version, int) or version > FORMAT):
        raise NewerFormatError(
            f"{path}: written by a newer version of trn_plugin "
            f"({shown(meta['trn_plugin_version'])}, format {shown(version)}); "
            f"this one, {trn_plugin.__version__}, reads up to format {FORMAT}"
        )


def _reason(error: Exception) -> str:
    """The useful part of torch's message."""
    called = re.search(r"GLOBAL (\S+)", str(error))
    if called:
        return f"it would call {printable(called[1].rstrip('.'))}"
    found = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    text = (found[1] if found else first_line(error)).split(". ")[0]
    return "it is not a checkpoint" if text.startswith("Weights only load failed") else text
