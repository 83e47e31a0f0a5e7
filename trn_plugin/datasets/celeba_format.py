"""Read CelebA's label files, as text or in the CSV form of common mirrors.

Label files (attributes, landmarks, boxes) hold the number of pictures, a line of column names, and
one row per picture, ``000001.jpg -1  1 ...``; partition files hold only rows ``000001.jpg 0``.
Blanks separate the columns; lines end in LF or CRLF. In CSV, a header
``image_id,5_o_Clock_Shadow,...`` replaces the first two lines; a partition may lack it. A
byte-order mark is skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trn_plugin.datasets.celeba_csv import split_csv
from trn_plugin.errors import DataError

__all__ = ["ATTRIBUTES", "SPLITS", "Table", "read_attributes", "read_partition", "read_table"]

ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs"),
    *("Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair"),
    *("Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair"),
    *("Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline"),
    *("Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings"),
    *("Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young"),
)
SPLITS = ("train", "val", "test")  # a partition file numbers them from 0

MAX_DIGITS = 9  # fits int32
MAX_NAME = 255
BLOCK = 1 << 18  # bytes parsed at once, few enough for the CPU cache
CACHED_FILES = 4
_BLANK = np.zeros(256, dtype=bool)
_BLANK[list(b" \t\n\v\f\r")] = True
_IN_NAMES = np.zeros(256, dtype=bool)
_IN_NAMES[0x21:0x7F] = True
_IN_NAMES[list(b"/\\:")] = False
_cache: dict[tuple, Table] = {}


class Table(NamedTuple):
    """Rows of a file, in its order. The arrays are shared and read-only.

    Attributes:
        names: names of the columns after the file name.
        values: (N, len(names)) int32; int8 0 and 1 from `read_attributes`.
        files: (N,) str, file names of the pictures, all different.
        lines: (N,) int32, line numbers from 1.
        header: line number of the column names.
    """

    names: tuple[str, ...]
    values: np.ndarray
    files: np.ndarray
    lines: np.ndarray
    header: int = 2


def read_attributes(path: str) -> Table:
    """Read ``list_attr_celeba.txt``: values (N, 40) int8, 1 for a present attribute, else 0.

    The last files read are cached in this process by the digest of their content.

    Raises:
        DataError: naming file and line, if the file is missing, its header is wrong, or a row has
            another number of columns, a value other than -1 and 1, or a name used before.
    """
    return _cached(path, "attributes", _parse_attributes)


def read_table(path: str, columns: Sequence[str]) -> Table:
    """Read a label file of integers with exactly these columns, such as landmarks in pixels.

    Raises:
        DataError: as `read_attributes`, or for other columns.
    """

    def parse(path: str, data: bytes) -> Table:
        table = _parse(path, data)
        if table.names != tuple(columns):
            raise DataError(
                f"{path}:{table.header}: expected the columns {' '.join(columns)}, "
                f"found {_quoted(' '.join(table.names).encode())}"
            )
        return table

    return _cached(path, tuple(columns), parse)


def read_partition(path: str) -> Table:
    """Read a partition file: values (N, 1), the index of the split in `SPLITS`.

    Raises:
        DataError: naming file and line, as `read_attributes`, or for another number.
    """
    return _cached(path, "partition", _parse_partition)


def _cached(path: str, kind: object, parse) -> Table:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    key = (kind, hashlib.sha256(data).digest())
    if key not in _cache:
        table = parse(path, data.removeprefix(b"\xef\xbb\xbf"))
        for array in (table.values, table.files, table.lines):
            array.flags.writeable = False
        while len(_cache) >= CACHED_FILES:
            del _cache[next(iter(_cache))]
        _cache[key] = table
    return _cache[key]


def _parse_attributes(path: str, data: bytes) -> Table:
    table = _parse(path, data)
    bad = np.abs(table.values) != 1
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{path}:{table.lines[row]}: expected {table.names[column][:60]} to be -1 or 1, "
            f"found {table.values[row, column]}"
        )
    return table._replace(values=(table.values > 0).astype(np.int8))


def _parse_partition(path: str, data: bytes) -> Table:
    _, rows = split_csv(path, data) or ((), data)
    table = _parse_rows(path, rows, 0, 1, ("split",))
    bad = np.flatnonzero((table.values < 0) | (table.values >= len(SPLITS)))
    if bad.size:
        listing = ", ".join(f"{i} ({name})" for i, name in enumerate(SPLITS))
        raise DataError(
            f"{path}:{table.lines[bad[0]]}: expected one of {listing}, "
            f"found {table.values[bad[0], 0]}"
        )
    return table


def _parse(path: str, data: bytes) -> Table:
    """Parse a label file: count, names, rows; or CSV: names, rows."""
    csv = split_csv(path, data)
    if csv is not None:
        names, rows = csv
        _check_names(path, 1, names, data.split(b"\n", 1)[0])
        return _parse_rows(path, rows, 0, 1, names)._replace(header=1)
    first = data.find(b"\n") + 1
    second = data.find(b"\n", first) + 1
    if not first or not second:
        raise DataError(f"{path}:1: expected the number of pictures, a line of names, and rows")
    count = data[:first].split()
    if len(count) != 1 or not count[0].isdigit():
        raise DataError(f"{path}:1: expected the number of pictures, found {_quoted(data[:first])}")
    names = tuple(name.decode("utf-8", "replace") for name in data[first:second].split())
    _check_names(path, 2, names, data[first:second])
    table = _parse_rows(path, data, second, 3, names)
    if len(table.files) != int(count[0]):
        raise DataError(
            f"{path}:1: expected the announced {int(count[0])} rows, found {len(table.files)}"
        )
    return table


def _check_names(path: str, line: int, names: tuple[str, ...], found: bytes) -> None:
    if not names or len(set(names)) < len(names) or names[0].lstrip("-").isdigit():
        raise DataError(
            f"{path}:{line}: expected the columns' names, each once, found {_quoted(found)}"
        )


def _parse_rows(path: str, data: bytes, start: int, line: int, names: tuple[str, ...]) -> Table:
    """Parse the rows from byte ``start``, which is in line ``line``."""
    blocks = []
    while start < len(data):
        end = data.find(b"\n", start + BLOCK) + 1 or len(data)
        text = data[start:end]
        if text.strip():
            parsed = _parse_block(text, len(names))
            if parsed is None:
                raise _first_error(path, text, line, names)
            values, files, lines = parsed
            blocks.append((values, files, lines + line))
        line += text.count(b"\n")
        start = end
    if not blocks:
        raise DataError(f"{path}: no rows; expected a file name and {_numbers(names)} in each line")
    values, files, lines = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    if len(set(files.tolist())) < len(files):
        seen: set[str] = set()
        for name, number in zip(files.tolist(), lines.tolist(), strict=True):
            if name in seen:
                raise DataError(f"{path}:{number}: {name} is listed twice")
            seen.add(name)
    return Table(names, values, files, lines)


def _parse_block(body: bytes, columns: int):
    """Values, file names and line numbers from 0; None if any row is malformed."""
    text = np.frombuffer(b"\n" + body + b"\n", dtype=np.uint8)
    blank = _BLANK[text]
    edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1  # start, end, start, end, ...
    if not edges.size or edges.size % (2 * (columns + 1)):
        return None
    edges = edges.reshape(-1, columns + 1, 2)
    newlines = np.flatnonzero(text == ord("\n"))
    lines = np.searchsorted(newlines, edges[:, 0, 0]) - 1
    last = np.searchsorted(newlines, edges[:, -1, 0]) - 1
    if (lines != last).any() or (np.diff(lines) < 1).any():
        return None
    values = _parse_integers(text, edges[:, 1:, 0], edges[:, 1:, 1])
    files = _parse_names(text, edges[:, 0, 0], edges[:, 0, 1])
    if values is None or files is None:
        return None
    return values, files, lines.astype(np.int32)


def _parse_names(text: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    """The file names at [start, end) of ``text``; None if one is not a plain name."""
    width = int((end - start).max())
    if width > MAX_NAME:
        return None
    position = start[:, None] + np.arange(width)
    inside = position < end[:, None]
    letters = np.where(inside, text[np.minimum(position, len(text) - 1)], 0)
    if not (_IN_NAMES[letters] | ~inside).all():
        return None
    files = letters.view(f"S{width}")[:, 0]
    return None if np.isin(files, (b".", b"..")).any() else files.astype(str)


def _parse_integers(text: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    """The integers at [start, end) of ``text`` as int32; None if one is malformed."""
    negative = text[start] == ord("-")
    first = start + negative
    length = int((end - first).max())
    if length > MAX_DIGITS or (end <= first).any():
        return None
    values = np.zeros(start.shape, dtype=np.int32)
    for power in range(length):
        position = end - 1 - power
        digit = text[position] - np.uint8(ord("0"))  # uint8: other characters wrap to > 9
        if power:
            inside = position >= first
            digit[~inside] = 0
        if (digit > 9).any():
            return None
        values += digit.astype(np.int32) * 10**power
    return np.where(negative, -values, values)


def _is_name(name: bytes) -> bool:
    plain = _IN_NAMES[np.frombuffer(name, dtype=np.uint8)].all()
    return bool(plain) and len(name) <= MAX_NAME and name not in (b".", b"..")


def _first_error(path: str, body: bytes, line: int, names: tuple[str, ...]) -> DataError:
    """The error of the first malformed row."""
    for number, row in enumerate(body.split(b"\n"), line):
        columns = row.split()
        if not columns:
            continue
        where = f"{path}:{number}"
        if len(columns) != len(names) + 1:
            return DataError(
                f"{where}: expected {len(names) + 1} columns, a file name and "
                f"{_numbers(names)}, found {len(columns)}{_missing_attributes(names)}"
            )
        if not _is_name(columns[0]):
            return DataError(f"{where}: expected a plain file name, found {_quoted(columns[0])}")
        for name, text in zip(names, columns[1:], strict=True):
            digits = text.removeprefix(b"-")
            if not digits.isdigit() or len(digits) > MAX_DIGITS:
                return DataError(
                    f"{where}: expected {name[:60]} to be a whole number, found {_quoted(text)}"
                )
    return DataError(f"{path}:{line}: cannot be read as rows of {_numbers(names)}")


def _missing_attributes(names: Sequence[str]) -> str:
    """Hint for a header that lacks a few attributes."""
    absent = [name for name in ATTRIBUTES if name not in names]
    few = 0 < len(absent) <= 3 and set(names) <= set(ATTRIBUTES)
    return f"; its header lacks {', '.join(absent)}" if few else ""


def _numbers(names: Sequence[str]) -> str:
    return f"{len(names)} number{'s' * (len(names) > 1)}"


def _quoted(text: bytes, longest: int = 60) -> str:
    shown = text.strip()[:longest].decode("utf-8", "replace")
    return repr(shown + ("..." if len(text.strip()) > longest else ""))
