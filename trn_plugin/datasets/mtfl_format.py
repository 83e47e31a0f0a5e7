"""Read and write MTFL's annotation files.

One row per picture: ``path x1..x5 y1..y5 gender smile glasses pose``. As distributed,
``training.txt`` has CRLF line ends, a leading space from row 2 on, a last line of white space, and
backslashes in its paths; ``testing.txt`` has forward slashes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from trn_plugin.errors import DataError
from trn_plugin.files import line_not_in_utf8
from trn_plugin.tasks.cells import LARGEST_COORDINATE, number, quoted, relative_path

__all__ = ["POSES", "MTFLRow", "read_rows", "write_rows"]

POSES = ("left profile", "left", "frontal", "right", "right profile")
NUM_POINTS = 5
LABELS = {"gender": 2, "smile": 2, "glasses": 2, "pose": len(POSES)}
NUM_COLUMNS = 1 + 2 * NUM_POINTS + len(LABELS)
COLUMNS = "path x1..x5 y1..y5 gender smile glasses pose"


class MTFLRow(NamedTuple):
    """One row: points in pixels, and labels numbered from 1 as in the file."""

    path: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    gender: int
    smile: int
    glasses: int
    pose: int
    line: int = 0


def read_rows(path: str) -> list[MTFLRow]:
    """Read an annotation file; paths get forward slashes."""
    name = os.path.basename(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot read the annotations: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = line_not_in_utf8(path)
        raise DataError(f"{path}:{line}: expected a text file in UTF-8: {error}") from None
    rows = [
        _parse(line.split(), f"{name}:{number}", number)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not rows:
        raise DataError(f"{path}: no rows; expected '{COLUMNS}' in each line")
    return rows


def _parse(columns: list[str], where: str, line: int) -> MTFLRow:
    if len(columns) != NUM_COLUMNS:
        raise DataError(
            f"{where}: expected {NUM_COLUMNS} columns ({COLUMNS}), found {len(columns)}"
        )
    coordinates = [
        number(text, "a coordinate in pixels", where, LARGEST_COORDINATE)
        for text in columns[1 : 1 + 2 * NUM_POINTS]
    ]
    labels = [
        _label(text, name, where)
        for text, name in zip(columns[1 + 2 * NUM_POINTS :], LABELS, strict=True)
    ]
    return MTFLRow(
        relative_path(columns[0], where),
        tuple(coordinates[:NUM_POINTS]),
        tuple(coordinates[NUM_POINTS:]),
        *labels,
        line,
    )


def _label(text: str, name: str, where: str) -> int:
    count = LABELS[name]
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= count):
        raise DataError(f"{where}: expected {name} to be 1..{count}, found {quoted(text)}")
    return int(text)


def write_rows(path: str, rows: Iterable[MTFLRow], separator: str = "\\") -> None:
    """Write rows as MTFL's files are distributed, with ``separator`` between folders."""
    lines = []
    for row in rows:
        numbers = [f"{value:.6f}" for value in (*row.xs, *row.ys)]
        labels = [str(row.gender), str(row.smile), str(row.glasses), str(row.pose)]
        lines.append(" ".join([row.path.replace("/", separator), *numbers, *labels]))
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write("\r\n ".join([*lines, ""]))
