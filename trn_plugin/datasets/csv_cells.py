"""Columns of a CSV file, many rows at a time."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv

__all__ = ["Batch", "Cells", "Strings", "plain_lines", "read_plain", "read_quoted"]

BLOCK = 1 << 22  # bytes parsed at once
ROWS = 1 << 16
NEWLINE, RETURN, QUOTE = b'\n\r"'


class Cells:
    """One column of a batch of rows; blanks around its cells are stripped.

    Args:
        texts: the cells.
    """

    def __init__(self, texts: pa.StringArray | Sequence[str]) -> None:
        array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
        self._array = compute.utf8_trim_whitespace(array)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: int) -> str:
        return self._array[int(row)].as_py()

    def tolist(self) -> list[str]:
        """The cells as texts."""
        return self._array.to_pylist()

    def take(self, rows: np.ndarray) -> Cells:
        """The cells of rows (n,)."""
        return self if len(rows) == len(self) else Cells(self._array.take(pa.array(rows)))

    @property
    def missing(self) -> np.ndarray:
        """(N,) bool: cells that are empty or "nan"."""
        empty = compute.equal(compute.binary_length(self._array), 0)
        nan = compute.equal(compute.ascii_lower(self._array), "nan")
        return compute.or_(empty, nan).to_numpy(zero_copy_only=False)

    def matches(self, pattern: str) -> np.ndarray:
        """(N,) bool: cells that match a regular expression (RE2)."""
        return compute.match_substring_regex(self._array, pattern).to_numpy(zero_copy_only=False)

    def numbers(self) -> np.ndarray:
        """(N,) float64; NaN for a cell that is not a decimal number."""
        try:
            return self._array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            return np.array([_number(text) for text in self.tolist()])

    def distinct(self) -> tuple[np.ndarray, list[str]]:
        """(N,) index of each cell's value, and the distinct values."""
        encoded = self._array.dictionary_encode()
        return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()

    def strings(self) -> Strings:
        """The cells in one buffer."""
        offsets = np.frombuffer(self._array.buffers()[1], np.int32)
        offsets = offsets[self._array.offset : self._array.offset + len(self) + 1]
        data = np.frombuffer(self._array.buffers()[2] or b"", np.uint8)
        return Strings(data[offsets[0] : offsets[-1]], offsets.astype(np.int64) - offsets[0])


class Strings(NamedTuple):
    """Texts in two arrays, which forked workers share.

    Attributes:
        data: (B,) uint8, all texts in UTF-8.
        offsets: (N + 1,) int64, start of each text.
    """

    data: np.ndarray
    offsets: np.ndarray

    def text(self, row: int) -> str:
        """The text of a row."""
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    @classmethod
    def concatenate(cls, parts: Sequence[Strings]) -> Strings:
        """All texts, in order."""
        starts = np.cumsum([0, *(len(part.data) for part in parts)])
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
        data = np.concatenate([part.data for part in parts])
        return cls(data, np.concatenate([*offsets, starts[-1:]]))


class Batch(NamedTuple):
    """Some rows of a file.

    Attributes:
        lines: (N,) int32, line numbers from 1.
        cells: cells by column name.
    """

    lines: np.ndarray
    cells: dict[str, Cells]


def plain_lines(path: str) -> np.ndarray | None:
    """Line numbers (N,) of the rows, the header's first; None if rows and lines may differ.

    They may differ where a cell is quoted, a line ends in CR alone, or a line is longer than the
    csv module's limit for a cell.
    """
    ends, after_return, start, last = [], [], 0, NEWLINE
    with open(path, "rb") as file:
        while data := file.read(BLOCK):
            text = np.frombuffer(bytes([last]) + data, np.uint8)
            ended = np.flatnonzero(text[1:] == NEWLINE)
            returned = text[ended] == RETURN
            if QUOTE in data or np.count_nonzero(text[:-1] == RETURN) != np.count_nonzero(returned):
                return None
            ends.append(ended + start)
            after_return.append(returned)
            start, last = start + len(data), data[-1]
    if last == RETURN:
        return None
    if last != NEWLINE:
        ends.append(np.array([start]))
        after_return.append(np.array([False]))
    lengths = np.diff(np.concatenate([[-1], *ends])) - 1
    if lengths.max(initial=0) > csv.field_size_limit():
        return None
    lengths -= np.concatenate([np.zeros(0, bool), *after_return])
    return (np.flatnonzero(lengths > 0) + 1).astype(np.int32)


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
        own = lines[start + skipped : start + len(batch)]
        start += len(batch)
        columns = [column[skipped:] for column in batch.columns]
        yield Batch(own, dict(zip(names, map(Cells, columns), strict=True)))
    if start != len(lines):
        raise pa.ArrowInvalid(f"{start} rows in {len(lines)} lines")


def read_quoted(
    rows: Iterator[tuple[int, list[str]]], header: Sequence[str], names: Sequence[str]
) -> Iterator[Batch]:
    """As `read_plain`, from rows (line, cells) of the csv module."""
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
