"""Locate text that is not UTF-8."""

from __future__ import annotations

__all__ = ["line_not_in_utf8"]


def line_not_in_utf8(path: str) -> int:
    """Number, from 1, of the first line that is not valid UTF-8; 0 if there is none."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError:
                return number
    return 0
