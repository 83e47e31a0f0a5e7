"""Read and check the cells of annotation files."""

from __future__ import annotations

import math
from collections.abc import Iterable

from trn_plugin.errors import DataError

__all__ = [
    "LARGEST_COORDINATE",
    "is_missing",
    "listing",
    "number",
    "quoted",
    "relative_path",
]

LARGEST_COORDINATE = 1e6
LONGEST, LISTED = 60, 12  # most characters and names in a message


def is_missing(cell: str) -> bool:
    """Whether a cell holds no label: it is empty or "nan"."""
    return not cell or cell.lower() == "nan"


def number(text: str, name: str, where: str, largest: float = math.inf) -> float:
    """Read a finite decimal number from -``largest`` to ``largest``.

    Raises:
        DataError: the message begins with ``where`` and says "expected ``name``".
    """
    try:
        if not text.isascii() or "_" in text:  # float() also takes other digits and 1_000
            raise ValueError
        value = float(text)
    except ValueError:
        raise DataError(f"{where}: expected {name}, found {quoted(text)}") from None
    if not (math.isfinite(value) and abs(value) <= largest):
        limit = f"within {largest:g}" if math.isfinite(value) else "finite"
        raise DataError(f"{where}: expected {name}, {limit}, found {quoted(text)}")
    return value


def relative_path(text: str, where: str) -> str:
    """Read a relative path, with forward or backward slashes.

    Raises:
        DataError: the path is absolute, contains ".." or is not printable; the message begins with
            ``where``.
    """
    path = text.replace("\\", "/")
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or ":" in parts[0] or not path.isprintable():
        raise DataError(f"{where}: expected a path inside the data root, found {quoted(text)}")
    return path


def quoted(text: str) -> str:
    """``text`` in quotes for a message, shortened if long."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def listing(names: Iterable[str]) -> str:
    """Names for a message, shortened if many."""
    shown = [quoted(name)[1:-1] for name in names]
    rest = [f"and {len(shown) - LISTED} more"] if len(shown) > LISTED else []
    return ", ".join([*shown[:LISTED], *rest])
