"""What an exported file says of itself: JSON under one key of the ONNX metadata.

Stdlib only: the exporter writes it, the runtime reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from trn_plugin.errors import CheckpointError, printable

__all__ = [
    "FORMAT_VERSION",
    "INPUT_NAME",
    "METADATA_KEY",
    "feature_names",
    "names_or_numbers",
    "parse_metadata",
    "task_names",
]

METADATA_KEY = "trn_plugin"
INPUT_NAME = "images"
FORMAT_VERSION = 1
NAMES_KEY = {"landmarks": "names", "class": "classes", "attributes": "names", "values": "names"}
FEATURES = ("hidden", "output")
"""What a file may give besides predictions: what enters the tasks' last layers, and leaves them."""


def task_names(task: dict) -> list[str]:
    """Names of a task's points, classes or attributes, in the order of its output."""
    return task[NAMES_KEY[task["kind"]]]


def names_or_numbers(task: str, names: list[str] | None, count: int) -> list[str]:
    """``names`` where there are any; else the task's own for a lone output, else "0", "1", ..."""
    if names:
        return [str(name) for name in names]
    return [task] if count == 1 else [str(index) for index in range(count)]


def feature_names(levels: Iterable[str], tasks: Iterable[str]) -> list[str]:
    """The outputs ``<level>/<task>``, in the file's order."""
    tasks = list(tasks)
    return [f"{level}/{task}" for level in levels for task in tasks]


def _count(names: list[str]) -> int:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("names that are no list of text")
    return len(names)


def _short(error: Exception) -> str:
    return printable(repr(error))


def parse_metadata(text: str | None, path: str) -> dict:
    """Read and check the metadata of the file at ``path``.

    Returns:
        dict: ``format_version``, ``tasks`` (task -> ``kind`` and ``names`` or ``classes``),
        ``input_size`` (height, width of the network's input in pixels), ``features`` (any of
        :data:`FEATURES`), and what else was written.

    Raises:
        CheckpointError: if there is none, it is broken, or it is of a newer format.
    """
    if text is None:
        raise CheckpointError(f"{path}: an ONNX file, but not one written by tools/export_onnx.py")
    try:
        metadata = json.loads(text)
        version = int(metadata["format_version"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its metadata is damaged ({_short(error)}); export again"
        ) from None
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has export format {version}, this trn_plugin reads up to {FORMAT_VERSION}: "
            "update trn_plugin"
        )
    try:
        metadata["input_size"] = tuple(int(side) for side in metadata["input_size"])
        metadata["features"] = tuple(str(level) for level in metadata.get("features", ()))
        counts = {name: _count(task_names(task)) for name, task in metadata["tasks"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: its metadata is damaged ({_short(error)}); export again"
        ) from None
    if not counts:
        raise CheckpointError(f"{path}: its metadata names no task; export again")
    return metadata
