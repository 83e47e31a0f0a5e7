"""Detect external weights in an ONNX file, without onnx.

Parses Protocol Buffers' wire format, only the messages between the model and its tensors.
"""

from __future__ import annotations

import mmap

__all__ = ["has_external_data"]

MAX_DEPTH = 100
# message -> field number -> message in the field (onnx.proto)
FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def has_external_data(path: str) -> bool:
    """Whether any tensor of a model keeps its data in another file.

    Raises:
        ValueError: not a Protocol Buffers message, or nested deeper than onnx allows.
    """
    with open(path, "rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file
            return False
        with content:
            waiting = [("model", 0, len(content), 0)]
            while waiting:
                message, start, end, depth = waiting.pop()
                if depth > MAX_DEPTH:
                    raise ValueError("nested too deeply")
                for field, value, stop in _fields(content, start, end):
                    if message == "tensor":
                        location = field == DATA_LOCATION and (stop is not None or value != 0)
                        if field == EXTERNAL_DATA or location:
                            return True
                    elif stop is not None and field in FIELDS[message]:
                        waiting.append((FIELDS[message][field], value, stop, depth + 1))
    return False


def _fields(content, start: int, end: int):
    """Fields of a message: (number, start, stop) of bytes, (number, value, None) of a varint.

    Raises:
        ValueError: the message is malformed.
    """
    while start < end:
        tag, start = _varint(content, start, end)
        if tag >= 2**32:  # readers truncate it differently
            raise ValueError("a field's number is too large")
        field, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, start = _varint(content, start, end)
            yield field, value, None
        elif kind == BYTES:
            length, start = _varint(content, start, end)
            if length > end - start:
                raise ValueError("a field goes beyond its message")
            yield field, start, start + length
            start += length
        elif kind in (FIXED64, FIXED32):
            start += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"a field of the unknown wire type {kind}")


def _varint(content, start: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            break
        byte = content[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, start
    raise ValueError("an unterminated number")
