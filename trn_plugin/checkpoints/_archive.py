"""Checks of a checkpoint file, before and after torch reads it."""

from __future__ import annotations

import io
import pickle
import re
import zipfile

import torch

from trn_plugin.errors import CheckpointError, first_line, printable

__all__ = ["Inert", "check_archive", "check_sizes", "is_archive"]

LARGEST_EXPANDED = 2**28
"""Largest size in bytes of a tensor that is expanded from fewer stored values."""
DEEPEST, LARGEST = 50, 10**5
"""Limits of nested tuples, in levels and entries: hashing visits shared entries repeatedly."""
OLD_PICKLES = 5
"""Number of pickles at the beginning of a file in the format before torch 1.6."""
REFUSED = {
    "bytearray": "a bytearray, which is not plain data",  # of a size that the file declares
    "_rebuild_qtensor": "a quantised tensor, expected dense ones",
    "_rebuild_nested_tensor": "a nested tensor, expected dense ones",
}
ITEM_SIZES = dict(Double=8, Float=4, Half=2, BFloat16=2, Long=8, Int=4, Short=2)
ITEM_SIZES |= dict(ComplexFloat=8, ComplexDouble=16)
"""Bytes of an item by the type of the storage; at least 1 for others."""


class Inert:
    """Stands in for any object in a checkpoint; has no behaviour."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state) -> None:
        pass

    __setitem__ = append = extend = __init__


def is_archive(path: str) -> bool:
    """Whether a file is a checkpoint in the zip format of torch 1.6 and later."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_archive(path: str) -> None:
    """Refuse unusual records, tensors larger than their data, and pickles that never end."""
    if not is_archive(path):  # no records: torch reads sequentially, up to the end of the file
        with open(path, "rb") as file:
            for _ in range(OLD_PICKLES):
                _Scan(file, path).scan()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            pickled = [r for r in records if r.filename.endswith("/data.pkl")]
            data = archive.read(pickled[0]) if len(pickled) == 1 else b""
    except (zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(
            f"{path}: truncated or damaged checkpoint: {first_line(error)}"
        ) from None
    sizes, root = {}, records[0].filename.partition("/")[0] if records else ""
    for record in records:
        name = record.filename
        if name in sizes or not re.fullmatch(rf"{re.escape(root)}(/\.?\w+(\.\w+)*)+", name):
            raise CheckpointError(f"{path}: refused, it holds a record named {name!r}")
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise CheckpointError(
                f"{path}: refused, its record {name!r} is compressed or encrypted"
            )
        sizes[name] = record.file_size
    scan = _Scan(io.BytesIO(data), path)
    scan.scan()
    for key, declared in scan.declared:  # torch may read beyond the end of a short record
        _check_size(path, declared, sizes.get(f"{root}/data/{key}", 0))


def _check_size(path: str, declared: int, held: int) -> None:
    if declared > held:
        raise CheckpointError(
            f"{path}: refused, a tensor declares {declared} bytes, the file holds {held}"
        )


class _Tuple(tuple):
    """A tuple with its depth and size, nested tuples included."""


def _limited(load):
    def load_tuple(self):
        load(self)
        items = self.stack[-1]
        built = self.stack[-1] = _Tuple(items)
        inner = [item for item in items if isinstance(item, _Tuple)]
        built.depth = 1 + max((item.depth for item in inner), default=0)
        built.size = len(items) + sum(item.size for item in inner)
        if built.depth > DEEPEST or built.size > LARGEST + len(items):
            raise self.refusal("too deeply nested tuples")

    return load_tuple


class _Scan(pickle._Unpickler):
    """Collects the storages that a pickle declares; replaces every class with a stand-in.

    Uses the Python unpickler: the C one allocates a memo of a size that the file declares.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
        dispatch[code[0]] = _limited(dispatch[code[0]])
    dispatch[pickle.BYTEARRAY8[0]] = lambda self: self.find_class("builtins", "bytearray")

    def __init__(self, file, path: str) -> None:
        super().__init__(file)
        self.path = path
        self.declared: list[tuple[str, int]] = []

    def refusal(self, content: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: refused, it holds {content}")

    def scan(self) -> None:
        """Scan one pickle; a CheckpointError if it is damaged or would exhaust memory or time."""
        try:
            self.load()
        except CheckpointError:
            raise
        except Exception as error:  # damaged pickles raise all kinds of errors
            raise CheckpointError(
                f"{self.path}: refused, it is damaged or holds more than plain data: "
                f"{printable(first_line(error))}"
            ) from None

    def find_class(self, module: str, name: str) -> type:
        if name in REFUSED:
            raise self.refusal(REFUSED[name])
        return type(name, (Inert,), {})

    def persistent_load(self, pid):
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage":
            _, kind, key, _, count = pid
            name = getattr(kind, "__name__", "").removesuffix("Storage")
            if isinstance(count, int) and isinstance(key, str):
                self.declared.append((key, count * ITEM_SIZES.get(name, 1)))
        return Inert()


def check_sizes(value, path: str) -> None:
    """Raise a CheckpointError if a loaded tensor expands a few values to a huge size."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))  # lists may contain themselves
            waiting.extend(value.values() if isinstance(value, dict) else value)
        elif torch.is_tensor(value) and value.layout == torch.strided and not value.is_meta:
            size, held = value.numel() * value.element_size(), value.untyped_storage().nbytes()
            if size > LARGEST_EXPANDED:
                _check_size(path, size, held)
