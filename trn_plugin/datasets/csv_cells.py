"""Columns of a CSV file, many rows at a time."""

from __future__ import annotations

import array
import csv
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv

__all__ = ["Batch", "Cells", "plain_lines", "read_plain", "read_quoted"]

BLOCK = 1 << 22  # bytes parsed at once
ROWS = 1 << 16


class Cells:
    """One column of a batch of rows; blanks around its cells are stripped.

    Args:
        texts: the cells.

    Attributes:
        array (pa.StringArray): the stripped cells.
    """

    def __init__(self, texts: pa.StringArray | Sequence[str]) -> None:
        array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
        self.array = compute.utf8_trim_whitespace(array)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, row: int) -> str:
        return self.array[int(row)].as_py()

    def tolist(self) -> list[str]:
        """The cells as texts."""
        return self.array.to_pylist()

    def take(self, rows: np.ndarray) -> Cells:
        """The cells of rows (n,)."""
        return self if len(rows) == len(self) else Cells(self.array.take(pa.array(rows)))

    @property
    def missing(self) -> np.ndarray:
        """(N,) bool: cells that are empty or "nan"."""
        empty = compute.equal(compute.binary_length(self.array), 0)
        nan = compute.equal(compute.ascii_lower(self.array), "nan")
        return compute.or_(empty, nan).to_numpy(zero_copy_only=False)

    def matches(self, pattern: str) -> np.ndarray:
        """(N,) bool: cells that match a regular expression (RE2)."""
        return compute.match_substring_regex(self.array, pattern).to_numpy(zero_copy_only=False)

    def numbers(self) -> np.ndarray:
        """(N,) float64; NaN for a cell that is not a decimal number."""
        try:
            return self.array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            return np.array([_number(text) for text in self.tolist()])

    def distinct(self) -> tuple[np.ndarray, list[str]]:
        """(N,) index of each cell's value, and the distinct values."""
        encoded = self.array.dictionary_encode()
        return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


class Batch(NamedTuple):
    """Some rows of a file.

    Attributes:
        lines: (N,) int32, line numbers from 1.
        cells: cells by column name.
    """

    lines: np.ndarray
    cells: dict[str, Cells]


def plain_lines(path: str) -> np.ndarray | None:
    """Line numbers (N,) of the header and the rows; None if a row may not be exactly one line.

    This is so if a cell is quoted, a line ends in CR alone, or a line is longer than the csv
    module's limit for a cell.
    """
    lines, longest = array.array("i"), csv.field_size_limit()
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            row = line.removesuffix(b"\n").removesuffix(b"\r")
            if b'"' in row or b"\r" in row or len(row) > longest:
                return None
            if row:
                lines.append(number)
    return np.array(lines, np.int32)


def read_plain(
    path: str, lines: np.ndarray, header: Sequence[str], names: Sequence[str]
) -> Iterator[Batch]:
    """Read a file whose rows are single lines.

    Args:
        path: the file.
        lines: from `plain_lines`.
        header: names of all columns, in order.
        names: names of the columns to read.

    Raises:
        pyarrow.ArrowInvalid: a row that cannot be read.
    """
    places = [f"f{header.index(name)}" for name in names]
    reader = arrow_csv.open_csv(
        path,
        arrow_csv.ReadOptions(block_size=BLOCK, autogenerate_column_names=True, use_threads=False),
        arrow_csv.ParseOptions(quote_char=False),
        arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(places, pa.string()), include_columns=places
        ),
    )
    start = 0
    for batch in reader:
        skipped = int(not start)  # the header
        numbers = lines[start + skipped : start + len(batch)]
        start += len(batch)
        columns = [column[skipped:] for column in batch.columns]
        yield Batch(numbers, dict(zip(names, map(Cells, columns), strict=True)))
    if start != len(lines):
        raise pa.ArrowInvalid(f"{start} rows in {len(lines)} lines")


def read_quoted(
    rows: Iterator[tuple[int, list[str]]], header: Sequence[str], names: Sequence[str]
) -> Iterator[Batch]:
    """Like `read_plain`, from rows (line number, cells) of the csv module."""
    while chunk := list(itertools.islice(rows, ROWS)):
        lines = np.array([line for line, _ in chunk], np.int32)
        places = [header.index(name) for name in names]
        cells = {
            name: Cells([row[place] for _, row in chunk])
            for name, place in zip(names, places, strict=True)
        }
        yield Batch(lines, cells)


def _number(text: str) -> float:
    try:
        return float(text) if text.isascii() and "_" not in text else np.nan
    except ValueError:
        return np.nan
