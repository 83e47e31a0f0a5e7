"""Read CelebA's label files, as text or in the CSV form of common mirrors.

Label files (attributes, landmarks, boxes) hold the number of pictures, a line of column names, and
one row per picture, ``000001.jpg -1  1 ...``; partition files hold only rows ``000001.jpg 0``.
Blanks separate the columns; lines end in LF or CRLF. In CSV, a header
``image_id,5_o_Clock_Shadow,...`` replaces the first two lines; a partition may lack it. A
byte-order mark is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from trn_plugin.errors import DataError
from trn_plugin.tasks.cells import listing, quoted

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

FILE_NAME = re.compile(r"(?!\.\.?$)[!-.0-9;-\[\]-~]{1,255}")  # ASCII without / \ :
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}")
OTHER_BLANKS = bytes.maketrans(b"\t\v\f\r", b"    ")


class Table(NamedTuple):
    """Rows of a file, in its order.

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
    header: int

    def take(self, rows: np.ndarray) -> Table:
        """Some rows (n,)."""
        return self._replace(
            values=self.values[rows], files=self.files[rows], lines=self.lines[rows]
        )


def read_attributes(path: str) -> Table:
    """Read ``list_attr_celeba.txt``: values (N, 40) int8, 1 for a present attribute, else 0."""
    table = _read_labels(path)
    bad = np.argwhere(np.abs(table.values) != 1)
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{path}:{table.lines[row]}: expected {table.names[column][:60]} to be -1 or 1, "
            f"found {table.values[row, column]}"
        )
    return table._replace(values=(table.values > 0).astype(np.int8))


def read_table(path: str, columns: Sequence[str]) -> Table:
    """Read a label file of integers with exactly these columns, such as landmarks in pixels."""
    table = _read_labels(path)
    if table.names != tuple(columns):
        raise DataError(
            f"{path}:{table.header}: expected the columns {' '.join(columns)}, "
            f"found {quoted(' '.join(table.names))}"
        )
    return table


def read_partition(path: str) -> Table:
    """Read a partition file: values (N, 1), the index of the split in `SPLITS`."""
    data, separator = _read(path)
    first = data.partition("\n")[0]
    header = int(separator == "," and not first[-1:].isdecimal())
    table = _parse(path, data, separator, ("split",), header)
    bad = np.flatnonzero((table.values < 0) | (table.values >= len(SPLITS)))
    if bad.size:
        listing = ", ".join(f"{i} ({name})" for i, name in enumerate(SPLITS))
        raise DataError(
            f"{path}:{table.lines[bad[0]]}: expected one of {listing}, "
            f"found {table.values[bad[0], 0]}"
        )
    return table


def _read_labels(path: str) -> Table:
    """Read a label file: number of pictures (not in CSV), column names, rows."""
    data, separator = _read(path)
    first, second = [*data.split("\n", 2), ""][:2]
    header = 1 if separator == "," else 2
    if header == 2 and not first.isdecimal():
        raise DataError(f"{path}:1: expected the number of pictures, found {quoted(first)}")
    names = tuple(first.split(",")[1:] if header == 1 else second.split())
    if not names or len(set(names)) < len(names) or WHOLE_NUMBER.fullmatch(names[0]):
        found = quoted(first if header == 1 else second)
        raise DataError(f"{path}:{header}: expected the columns' names, each once, found {found}")
    table = _parse(path, data, separator, names, header)
    if header == 2 and len(table.files) != int(first):
        raise DataError(
            f"{path}:1: expected {int(first)} rows by this count, found {len(table.files)}"
        )
    return table


def _read(path: str) -> tuple[str, str]:
    """The text of a file without redundant blanks, and its separator of cells.

    The separator is a comma if the first line has a comma and a letter: the count may be written
    202,599.
    """
    try:
        with open(path, "rb") as file:
            data = file.read().removeprefix(b"\xef\xbb\xbf") + b"\n"
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    first = data.partition(b"\n")[0]
    if b"," in first and first.upper() != first.lower():
        data, separator = data.translate(None, b' \t\v\f\r"'), b","
        removed = [(b",\n", b"\n")]  # spreadsheets leave commas at the end of a line
    else:
        data, separator = data.translate(OTHER_BLANKS), b" "
        removed = [(b"  ", b" "), (b" \n", b"\n"), (b"\n ", b"\n")]
    for before, after in removed:
        while before in data:
            data = data.replace(before, after)
    return data.decode("utf-8", "replace").lstrip(" "), separator.decode()


def _parse(path: str, data: str, separator: str, names: Sequence[str], header: int) -> Table:
    """Parse the rows below ``header`` lines."""
    rows = data.split("\n")[header:]
    lines = np.array([n for n, row in enumerate(rows, header + 1) if row], np.int32)
    if not lines.size:
        raise DataError(f"{path}: no rows; expected a file name and {listing(names)} in each line")
    types = [pa.string(), *[pa.int32()] * len(names)]
    try:
        table = csv.read_csv(
            pa.BufferReader("\n".join(rows).encode()),
            csv.ReadOptions(autogenerate_column_names=True, use_threads=False),
            csv.ParseOptions(delimiter=separator, quote_char=False),
            csv.ConvertOptions(
                column_types={f"f{i}": kind for i, kind in enumerate(types)}, null_values=[]
            ),
        )
    except pa.ArrowInvalid as error:
        raise _first_error(path, rows, separator, names, header) or DataError(
            f"{path}: cannot be read as rows of {listing(names)}: {error}"
        ) from None
    file_names = table.column(0).to_pylist()
    if table.num_columns != len(types) or not all(map(FILE_NAME.fullmatch, file_names)):
        raise _first_error(path, rows, separator, names, header)
    files = np.array(file_names)
    if len(set(file_names)) < len(files):
        first = np.unique(files, return_index=True)[1]
        row = np.setdiff1d(np.arange(len(files)), first)[0]
        raise DataError(f"{path}:{lines[row]}: {files[row]} is listed twice")
    values = np.stack([column.to_numpy() for column in table.columns[1:]], axis=1)
    return Table(tuple(names), values, files, lines, header)


def _first_error(
    path: str, rows: Sequence[str], separator: str, names: Sequence[str], header: int
) -> DataError | None:
    """The error of the first malformed row."""
    for number, row in enumerate(rows, header + 1):
        if not row:
            continue
        where, (file, *values) = f"{path}:{number}", row.split(separator)
        if len(values) != len(names):
            return DataError(
                f"{where}: expected {len(names) + 1} columns, a file name and "
                f"{listing(names)}, found {len(values) + 1}"
            )
        if not FILE_NAME.fullmatch(file):
            return DataError(f"{where}: expected a plain file name, found {quoted(file)}")
        for name, text in zip(names, values, strict=True):
            if not WHOLE_NUMBER.fullmatch(text):
                return DataError(
                    f"{where}: expected {name[:60]} to be a whole number, found {quoted(text)}"
                )
    return None
