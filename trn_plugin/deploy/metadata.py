"""Metadata of an exported file: JSON under one key of the ONNX metadata.

Standard library only: the exporter writes it, the runtime reads it.
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
    "parse_metadata",
    "sizes_text",
]

METADATA_KEY = "trn_plugin"
INPUT_NAME = "images"
FORMAT_VERSION = 1
FEATURES = ("hidden", "output")
"""Optional outputs: input of each task's last layer, and its predicted loss targets."""


def feature_names(levels: Iterable[str], tasks: Iterable[str]) -> list[str]:
    """Names ``<level>/<task>`` of the outputs, in the file's order."""
    tasks = list(tasks)
    return [f"{level}/{task}" for level in levels for task in tasks]


def sizes_text(sizes: Iterable) -> str:
    """A shape in messages."""
    return f"({', '.join(map(str, sizes))})"


def parse_metadata(text: str | None, path: str) -> dict:
    """Read the metadata of the file at ``path``.

    Returns:
        dict: ``format_version``, ``tasks`` (by name: ``kind`` and its names), ``input_size``
        (height, width of the network's input in pixels), ``features`` (some of :data:`FEATURES`)
        and the other entries.

    Raises:
        CheckpointError: there is no metadata, it is damaged, or its format is newer.
    """
    if text is None:
        raise CheckpointError(f"{path}: an ONNX file, but not one written by trn-plugin export")
    try:
        metadata = json.loads(text)
        version = int(metadata["format_version"])
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: has export format {version}, this trn_plugin reads up to "
                f"{FORMAT_VERSION}: update trn_plugin"
            )
        metadata["input_size"] = tuple(int(side) for side in metadata["input_size"])
        metadata["features"] = tuple(metadata.get("features", ()))
        metadata["tasks"] = dict(metadata["tasks"])
        if not metadata["tasks"]:
            raise ValueError("no task")
        if (crop := metadata.get("crop")) is not None:
            metadata["crop"] = {**crop, "text": str(crop["text"])}
            if crop["box"] == "points":
                metadata["crop"]["factor"] = float(crop["factor"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its metadata is damaged ({printable(repr(error))}); export again"
        ) from None
    return metadata
