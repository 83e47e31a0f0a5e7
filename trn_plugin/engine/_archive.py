"""Checks of a checkpoint file before torch reads it, and right after."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import torch

from trn_plugin.errors import CheckpointError, first_line, printable

__all__ = ["Inert", "check_archive", "check_sizes", "is_archive"]

LARGEST_EXPANDED = 2**28
"""Bytes; a tensor that repeats its few stored values beyond this is there to fill the memory."""
DEEPEST, LARGEST = 50, 10**5
"""Levels and entries of nested tuples; hashing one counts shared entries each time."""
OLD_PICKLES = 5
"""At the beginning of a file in the format before torch 1.6; an archive has one."""
ODD_TENSORS = {"_rebuild_qtensor": "quantised", "_rebuild_nested_tensor": "nested"}


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
    """Refuse odd records, less data than declared, and pickles that fill the memory or hang.

    Some versions of torch read beyond a record that is shorter than declared. Files in the format
    before torch 1.6 are no archives; torch reads their data in order and stops where they end.

    Raises:
        CheckpointError: naming the record or the sizes.
    """
    if not is_archive(path):
        with open(path, "rb") as file:
            for _ in range(OLD_PICKLES):
                _Scan(file).scan(path)
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
    _check_records(records, path)
    sizes = {tuple(r.filename.split("/")[1:]): r.file_size for r in records}
    scan = _Scan(io.BytesIO(data))
    scan.scan(path)
    for key, declared in scan.declared:
        held = sizes.get(("data", key), 0)
        if declared > held:
            raise CheckpointError(
                f"{path}: refused, a tensor of it declares {declared} bytes where the file holds "
                f"{held}"
            )


def _check_records(records: list[zipfile.ZipInfo], path: str) -> None:
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


class _Refused(Exception):
    pass


class _Tuple(tuple):
    """A tuple that knows how deep and large it is with all that it holds."""

    depth, size = 1, 1


class _Scan(pickle._Unpickler):
    """Reads which storages a pickle declares; every name in it is a stand-in.

    The unpickler written in Python: the one in C sizes its memo by an index in the file.
    """

    def __init__(self, file) -> None:
        super().__init__(file)
        self.declared: list[tuple[str, int]] = []

    def scan(self, path: str) -> None:
        """Read one pickle.

        Raises:
            CheckpointError: it is damaged, or would hang or fill the memory.
        """
        try:
            self.load()
        except _Refused as error:
            raise CheckpointError(f"{path}: refused, it holds {error}") from None
        except Exception as error:  # a damaged pickle makes the unpickler raise anything
            raise CheckpointError(
                f"{path}: refused, it is damaged or holds more than plain data: "
                f"{printable(first_line(error))}"
            ) from None

    def load_bytearray8(self) -> None:
        raise _Refused("a bytearray, no plain data")  # makes room for what the file promises

    def _append_tuple(self, items) -> None:
        built = _Tuple(items)
        inner = [item for item in items if isinstance(item, _Tuple)]
        built.depth = 1 + max((item.depth for item in inner), default=0)
        built.size = len(items) + sum(item.size for item in inner)
        if built.depth > DEEPEST or built.size > LARGEST + len(items):
            raise _Refused("tuples nested too deeply to be a checkpoint's")
        self.append(built)

    def load_tuple(self) -> None:
        self._append_tuple(self.pop_mark())

    def _load_short_tuple(self, length: int) -> None:
        items = self.stack[-length:]
        del self.stack[-length:]
        self._append_tuple(items)

    dispatch = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.TUPLE[0]: load_tuple,
        pickle.TUPLE1[0]: lambda self: self._load_short_tuple(1),
        pickle.TUPLE2[0]: lambda self: self._load_short_tuple(2),
        pickle.TUPLE3[0]: lambda self: self._load_short_tuple(3),
    }

    def find_class(self, module: str, name: str) -> type:
        if name == "bytearray":
            raise _Refused("a bytearray, no plain data")
        if name in ODD_TENSORS:
            raise _Refused(f"a {ODD_TENSORS[name]} tensor, expected dense ones")
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
