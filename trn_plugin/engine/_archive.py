"""What is looked at in a checkpoint file before torch reads it, and right after."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile

import torch

from trn_plugin.errors import CheckpointError, first_line

__all__ = ["Inert", "check_archive", "check_sizes", "is_archive"]

LARGEST_EXPANDED = 2**28
"""Bytes; a tensor that repeats its few stored values beyond this is there to fill the memory."""


OLD_PICKLES = 5
"""At the beginning of a file in the format before torch 1.6; an archive has one."""


class Inert:
    """Takes the place of any object in a checkpoint; has no behaviour."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state) -> None:
        pass


def is_archive(path: str | os.PathLike) -> bool:
    """Whether a file is a checkpoint in the format since torch 1.6."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def check_archive(path: str) -> None:
    """Refuse an archive with odd records, or a file with less data than it declares.

    Some versions of torch read beyond a record that is shorter than declared. Files in the format
    before torch 1.6 are no archives; torch reads their data in order and stops where they end.

    Raises:
        CheckpointError: naming the record or the sizes.
    """
    if not is_archive(path):
        with open(path, "rb") as file:
            _refuse_allocations(file, path)
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
    _refuse_allocations(io.BytesIO(data), path)
    sizes = {tuple(r.filename.split("/")[1:]): r.file_size for r in records}
    for key, declared in _declared_storages(data):
        held = sizes.get(("data", key), 0)
        if declared > held:
            raise CheckpointError(
                f"{path}: refused, a tensor of it declares {declared} bytes where the file holds "
                f"{held}"
            )


def _refuse_allocations(file, path: str) -> None:
    """Refuse a pickle that asks for memory by a number; it is read, nothing in it is run."""
    try:
        for _ in range(OLD_PICKLES):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL" and argument.split()[-1:] == ["bytearray"]:
                    raise CheckpointError(f"{path}: refused, it holds a bytearray, no plain data")
    except CheckpointError:
        raise
    except Exception:  # torch's own reader will say what is wrong with it
        return


class _StorageReader(pickle._Unpickler):
    """Reads nothing but which storages a pickle declares; every name in it is a stand-in.

    The unpickler written in Python: the one in C sizes its memo by an index in the file.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.declared: list[tuple[str, int]] = []

    def load_bytearray8(self) -> None:
        raise pickle.UnpicklingError("a bytearray")  # makes room for what the file promises

    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}

    def find_class(self, module: str, name: str) -> type:
        return type(name, (_InertContainer,), {})

    def persistent_load(self, pid):
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage":
            _, kind, key, _, count = pid
            size = _ITEM_SIZES.get(getattr(kind, "__name__", ""), 1)
            if isinstance(count, int) and isinstance(key, str):
                self.declared.append((key, count * size))
        return _InertContainer()


class _InertContainer(Inert):
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


def check_sizes(value, path: str) -> None:
    """Refuse what was read if a tensor in it repeats a few values beyond all measure.

    Raises:
        CheckpointError: naming the sizes.
    """
    waiting = [value]
    seen = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list, tuple)):
            if id(value) in seen:  # a file may hold a list that holds itself
                continue
            seen.add(id(value))
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
