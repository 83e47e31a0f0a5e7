"""Checkpoints that hold numbers, strings and tensors only, and loading that runs nothing.

``weights_only=True`` is passed explicitly, so that no environment variable can weaken it. What
MMEngine's own checkpoints hold beyond tensors (``HistoryBuffer``, numpy's globals,
``builtins.getattr``) is replaced by stand-ins that accept anything and do nothing. The archive is
looked at before torch reads it: its records' names, and that they hold what the tensors declare.
"""

from __future__ import annotations

import glob
import io
import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

import trn_plugin
from trn_plugin.errors import CheckpointError, first_line

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

LARGEST_EXPANDED = 2**28
"""Bytes; a tensor that repeats its few stored values beyond this is there to fill the memory."""


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


def read_meta(path: str | os.PathLike) -> dict:
    """The 'meta' of a checkpoint, without reading its tensors; empty if there is none.

    Raises:
        CheckpointError: as :func:`load_checkpoint_file`, as far as that can be seen.
    """
    checkpoint = _load(path, "cpu", mmap=_is_archive(path))
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    return meta if isinstance(meta, dict) else {}


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
    sink = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
            left.unlink()  # of a run that was killed while it wrote
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY, delete=False
        ) as file:
            temporary = file.name
            sink = _Sink(file)
            torch.save(plain(checkpoint), sink)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
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
    """Normalisation that belongs to the config; what task relation layers start warm from."""
    return key.startswith("data_preprocessor.") or ".warm." in key


def _existing(path: str | os.PathLike) -> str:
    path = os.fspath(path)
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: expected a checkpoint file, found a folder")
    if not os.path.exists(path):
        raise CheckpointError(f"{path}: no such checkpoint file")
    return path


def _load(path: str | os.PathLike, map_location, mmap: bool = False):
    path = _existing(path)
    try:
        if os.path.getsize(path) == 0:
            raise CheckpointError(f"{path}: the file is empty (0 bytes)")
        _check_archive(path)
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
    _check_sizes(loaded, path)
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


def _is_archive(path: str | os.PathLike) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def _check_archive(path: str) -> None:
    """Refuse an archive with odd records, or with less data than its tensors declare.

    torch 2.6 reads beyond a record that is shorter than declared. Files in the format before
    torch 1.6 are no archives; torch reads their data in order and stops where they end.
    """
    if not _is_archive(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            pickled = [r for r in records if r.filename.endswith("/data.pkl")]
            data = archive.read(pickled[0]) if len(pickled) == 1 else b""
    except (zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(
            f"{path}: truncated or damaged, it begins as a checkpoint but: {first_line(error)}"
        ) from None
    seen = set()
    for record in records:
        parts = record.filename.split("/")
        if (
            len(parts) < 2
            or parts[0] != records[0].filename.split("/")[0]
            or not all(part.isprintable() and part not in ("", ".", "..") for part in parts)
            or "\\" in record.filename
            or record.filename in seen
        ):
            raise CheckpointError(f"{path}: refused, it holds a record named {record.filename!r}")
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise CheckpointError(
                f"{path}: refused, its record {record.filename!r} is compressed or encrypted"
            )
        seen.add(record.filename)
    sizes = {tuple(r.filename.split("/")[1:]): r.file_size for r in records}
    for key, declared in _declared_storages(data):
        held = sizes.get(("data", key), 0)
        if declared > held:
            raise CheckpointError(
                f"{path}: refused, a tensor of it declares {declared} bytes where the file holds "
                f"{held}"
            )


class _StorageReader(pickle._Unpickler):
    """Reads nothing but which storages a pickle declares; every name in it is a stand-in.

    The unpickler written in Python: the one in C sizes its memo by an index in the file.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.declared: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> type:
        return type(name, (_InertContainer,), {})

    def persistent_load(self, pid):
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage":
            _, kind, key, _, count = pid
            size = _ITEM_SIZES.get(getattr(kind, "__name__", ""), 1)
            if isinstance(count, int) and isinstance(key, str):
                self.declared.append((key, count * size))
        return _InertContainer()


class _InertContainer(_Inert):
    def __setitem__(self, key, value) -> None:
        pass

    def append(self, value) -> None:
        pass

    def extend(self, values) -> None:
        pass


_ITEM_SIZES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}


def _declared_storages(data: bytes) -> list[tuple[str, int]]:
    """(key, bytes) of the storages that a pickle declares, as far as it can be read."""
    reader = _StorageReader(data)
    try:
        reader.load()
    except Exception:  # torch's own reader will say what is wrong with it
        return reader.declared
    return reader.declared


def _check_sizes(value, path: str) -> None:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
        elif torch.is_tensor(value) and value.layout == torch.strided and not value.is_meta:
            size = value.numel() * value.element_size()
            if size > max(LARGEST_EXPANDED, value.untyped_storage().nbytes()):
                raise CheckpointError(
                    f"{path}: refused, a tensor of it declares {size} bytes where the file holds "
                    f"{value.untyped_storage().nbytes()}"
                )


def _check_written_here(meta: dict, path: str | os.PathLike) -> None:
    """Format and checksums of a checkpoint of this package."""
    version = meta.get("trn_plugin_format", 0)
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(
            f"{path}: written by a newer version of trn_plugin "
            f"({meta['trn_plugin_version']}, format {version}); this one, "
            f"{trn_plugin.__version__}, reads up to format {FORMAT}"
        )
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
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        found = line.partition("WeightsUnpickler error:")[2].strip()
        if found:
            return found.split(". ")[0]
    text = first_line(error).split(". ")[0]
    return "it is no checkpoint" if text.startswith("Weights only load failed") else text


def _stand_in(name: str) -> type:
    return type(name.rsplit(".", 1)[1], (_Inert,), {})
