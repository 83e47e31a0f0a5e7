"""Label columns of a user's CSV file; errors name file and line."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from trn_plugin.datasets._options import chosen_names, suggestion
from trn_plugin.datasets.celeba_format import read_attributes
from trn_plugin.datasets.csv_cells import Batch, Cells, plain_lines, read_plain, read_quoted
from trn_plugin.errors import DataError
from trn_plugin.files import line_not_in_utf8
from trn_plugin.tasks.cells import listing, quoted
from trn_plugin.tasks.columns import column_numbers
from trn_plugin.tasks.values import LARGEST_VALUE

__all__ = ["csv_batches", "csv_header", "csv_rows", "read_celeba_columns", "read_label_csv"]

MAX_CLASSES = 1000


def csv_rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of a CSV file (commas, UTF-8): its header, then non-empty rows.

    Blanks around cells are stripped.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if not header or "" in header or len(set(header)) < len(header):
                found = listing(header) or "none"
                raise DataError(f"{path}:1: expected the columns' names, each once, found {found}")
            if not np.isnan(Cells(header).numbers()).any():
                raise DataError(f"{path}:1: expected a header of column names, found numbers")
            yield 1, header
            for row in filter(None, reader):
                line = reader.line_num
                if len(row) != len(header):
                    raise DataError(
                        f"{path}:{line}: expected {len(header)} columns, found {len(row)}"
                    )
                yield line, [cell.strip() for cell in row]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        line = reader.line_num if isinstance(error, csv.Error) else line_not_in_utf8(path)
        raise DataError(f"{path}:{line}: expected a CSV file in UTF-8: {error}") from None


def csv_header(path: str) -> list[str]:
    """The column names of a CSV file."""
    return next(csv_rows(path))[1]


def csv_batches(path: str, header: Sequence[str], names: Sequence[str]) -> Iterator[Batch]:
    """Columns of a CSV file in batches of rows.

    Args:
        path: the file.
        header: from `csv_header`.
        names: names of the columns to read.
    """
    lines, done = plain_lines(path), 0
    if lines is not None:
        try:
            for batch in read_plain(path, lines, header, names):
                done += len(batch.lines)
                yield batch
            return
        except pa.ArrowInvalid:  # read the rest with the csv module, whose errors name the line
            pass
    yield from read_quoted(itertools.islice(csv_rows(path), 1 + done, None), header, names)


def read_label_csv(
    path: str, columns: Sequence[str] | None = None, classes: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Columns of a CSV file as features; an empty cell is a missing label.

    Args:
        path: CSV file with a header.
        columns: names of the columns to read; default all.
        classes: names of columns of classes (any text), which become one-hot; all others hold
            numbers.

    Returns:
        Arrays by column: (N, 1) numbers, or (N, C) one-hot with sorted classes; NaN where missing.
    """
    header = csv_header(path)
    chosen = list(dict.fromkeys([*(header if columns is None else columns), *classes]))
    for name in chosen:
        if name not in header:
            raise DataError(f"{path}:1: has no column {quoted(name)}; {suggestion(name, header)}")
    parts: dict[str, list] = {name: [] for name in chosen}
    for batch in csv_batches(path, header, chosen):
        for name, cells in batch.cells.items():
            parts[name].append(cells.tolist() if name in classes else _values(path, batch, name))
    if not any(len(found[0]) for found in parts.values() if found):
        raise DataError(f"{path}: has no rows below its header")
    return {
        name: _one_hot(path, name, list(itertools.chain.from_iterable(found)))
        if name in classes
        else np.concatenate(found)[:, None]
        for name, found in parts.items()
    }


def read_celeba_columns(path: str, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """(N, 1) float32 of attributes in CelebA's file.

    Args:
        path: ``list_attr_celeba.txt``, or its folder.
        columns: names of attributes; default all.
    """
    if os.path.isdir(path):
        path = os.path.join(path, "list_attr_celeba.txt")
    table = read_attributes(path)
    names = chosen_names("--columns", columns or None, table.names)
    values = dict(zip(table.names, table.values.T.astype(np.float32, order="C"), strict=True))
    return {name: values[name][:, None] for name in names}


def _values(path: str, batch: Batch, name: str) -> np.ndarray:
    """(N,) numbers of a column; NaN for a missing cell."""
    cells, expected = batch.cells[name], f"{name} to be a number (or named in --classes)"
    return column_numbers(
        cells, expected, lambda row: f"{path}:{batch.lines[row]}", LARGEST_VALUE, ~cells.missing
    )


def _one_hot(path: str, name: str, labels: list[str]) -> np.ndarray:
    """(N, C) one-hot, classes in sorted order; NaN for an empty label."""
    known = sorted({label for label in labels if label})
    if not 0 < len(known) <= MAX_CLASSES:
        raise DataError(
            f"{path}: expected 1 to {MAX_CLASSES} classes in column {name}, found {len(known)}"
        )
    rows = np.vstack([np.eye(len(known)), np.full(len(known), np.nan)])
    numbers = {label: number for number, label in enumerate([*known, ""])}
    return rows[[numbers[label] for label in labels]]
