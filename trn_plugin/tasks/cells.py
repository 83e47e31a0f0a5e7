"""What a cell of an annotation file may hold, whichever file it is."""

from __future__ import annotations

import math
from collections.abc import Iterable

from trn_plugin.errors import DataError

__all__ = [
    "LARGEST_COORDINATE",
    "coordinate",
    "is_missing",
    "listing",
    "number",
    "quoted",
    "relative_path",
]

LARGEST_COORDINATE = 1e6
LONGEST, LISTED = 60, 12  # letters of a name, names


def is_missing(cell: str) -> bool:
    """Whether a cell holds no label: it is empty, or "nan" as some programs write it."""
    return not cell or cell.lower() == "nan"


def number(text: str, name: str, where: str) -> float:
    """A finite decimal number; ``name`` is what messages expect, such as "a coordinate".

    Raises:
        DataError: naming ``where``.
    """
    try:
        if not text.isascii() or "_" in text:  # float() knows other digits and 1_000
            raise ValueError
        value = float(text)
    except ValueError:
        raise DataError(f"{where}: expected {name}, found {quoted(text)}") from None
    if not math.isfinite(value):
        raise DataError(f"{where}: expected {name}, finite, found {text!r}")
    return value


def coordinate(text: str, name: str, where: str) -> float:
    """A `number` of pixels that a picture can have.

    Raises:
        DataError: naming ``where``.
    """
    value = number(text, name, where)
    if abs(value) > LARGEST_COORDINATE:
        raise DataError(
            f"{where}: expected {name} within {LARGEST_COORDINATE:g} pixels, found {quoted(text)}"
        )
    return value


def relative_path(text: str, where: str) -> str:
    """A path as an annotation file gives it, with forward slashes.

    Raises:
        DataError: naming ``where``, if it is absolute, leads upwards or is not printable.
    """
    path = text.replace("\\", "/")
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or ":" in parts[0] or not path.isprintable():
        raise DataError(f"{where}: expected a path inside the data root, found {quoted(text)}")
    return path


def quoted(text: str) -> str:
    """``text`` as a message shows it, cut short if it is long."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def listing(names: Iterable[str]) -> str:
    """Names as a message lists them, the first of them if there are many."""
    shown = [quoted(name)[1:-1] for name in names]
    rest = [f"and {len(shown) - LISTED} more"] if len(shown) > LISTED else []
    return ", ".join([*shown[:LISTED], *rest])
