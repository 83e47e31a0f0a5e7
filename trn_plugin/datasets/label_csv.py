"""Label columns of a CSV file of anybody's."""

from __future__ import annotations

import csv
import math
import os
from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from trn_plugin.datasets.celeba_format import read_attributes
from trn_plugin.errors import ConfigError, DataError
from trn_plugin.tasks.cells import listing, quoted
from trn_plugin.text_files import line_not_in_utf8

__all__ = ["csv_rows", "read_celeba_columns", "read_label_csv"]

MAX_CLASSES = 1000


def csv_rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """Lines and cells of a CSV file: its header first, then the rows that are not empty.

    Blanks around a cell do not count. Comma-separated, UTF-8.

    Raises:
        DataError: naming file and line, if the file cannot be read, it has no header, or a row has
            another number of cells than it.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            yield from _checked_rows(path, reader)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = line_not_in_utf8(path)
        raise DataError(f"{path}:{line}: expected a CSV file in UTF-8: {error}") from None
    except csv.Error as error:
        line = reader.line_num
        raise DataError(f"{path}:{line}: expected a CSV file in UTF-8: {error}") from None


def _checked_rows(path: str, reader) -> Iterator[tuple[int, list[str]]]:
    header = [name.strip() for name in next(reader, [])]
    if not header or "" in header or len(set(header)) < len(header):
        raise DataError(
            f"{path}:1: expected the columns' names, each once, found {listing(header) or 'none'}"
        )
    if all(_is_number(name) for name in header):
        raise DataError(f"{path}:1: expected a header, the columns' names, found numbers")
    yield 1, header
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise DataError(
                f"{path}:{reader.line_num}: expected {len(header)} columns, found {len(row)}"
            )
        yield reader.line_num, [cell.strip() for cell in row]


def read_label_csv(
    path: str, columns: Sequence[str] | None = None, classes: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Columns of a CSV file with a header, as features; an empty cell is a missing label.

    Args:
        path: comma-separated, UTF-8.
        columns: names of those to read; all by default.
        classes: names of columns that hold classes (any text), which become one-hot; all others
            hold numbers.

    Returns:
        (N, 1) by column, (N, C) for one of C classes in sorted order; a row of NaN where missing.

    Raises:
        DataError: naming file and line, for what cannot be read so, or a column that is not there.
    """
    rows = csv_rows(path)
    _, header = next(rows)
    chosen = list(dict.fromkeys([*(header if columns is None else columns), *classes]))
    for name in chosen:
        if name not in header:
            raise DataError(f"{path}:1: has no column {name!r}; it has {listing(header)}")
    places = [(header.index(name), name, name in classes) for name in chosen]
    numbers, texts = array("d"), {name: [] for name in classes}
    count = 0
    for line, row in rows:
        count += 1
        for place, name, is_class in places:
            cell = row[place]
            if is_class:
                texts[name].append(cell)
                continue
            try:
                value = float(cell) if cell else math.nan
            except ValueError:
                value = math.inf
            if math.isinf(value):
                raise DataError(
                    f"{path}:{line}: expected {name} to be a number, found {quoted(cell)}; "
                    "choose the columns to read, or read it as classes"
                )
            numbers.append(value)
    if not count:
        raise DataError(f"{path}: has no rows below its header")
    plain = [name for name in chosen if name not in classes]
    values = np.ascontiguousarray(np.frombuffer(numbers).reshape(count, len(plain)).T)
    found = dict(zip(plain, values, strict=True))
    return {
        name: _one_hot(path, name, texts[name]) if name in classes else found[name][:, None]
        for name in chosen
    }


def read_celeba_columns(path: str, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """(N, 1) float32 of each attribute in CelebA's file, or of those named.

    Args:
        path: ``list_attr_celeba.txt``, or the folder that holds it.
        columns: attributes; default all.

    Raises:
        DataError: a file that cannot be read.
        ConfigError: a column that it does not have.
    """
    if os.path.isdir(path):
        path = os.path.join(path, "list_attr_celeba.txt")
    table = read_attributes(path)
    for name in columns or ():
        if name not in table.names:
            raise ConfigError(f"--columns: {path} has no {name!r}; it has {', '.join(table.names)}")
    values = dict(zip(table.names, table.values.T.astype(np.float32, order="C"), strict=True))
    return {name: values[name][:, None] for name in columns or table.names}


def _one_hot(path: str, name: str, labels: list[str]) -> np.ndarray:
    known = sorted({label for label in labels if label})
    if not 0 < len(known) <= MAX_CLASSES:
        raise DataError(
            f"{path}: expected 1 to {MAX_CLASSES} classes in column {name}, found {len(known)}"
        )
    values = np.full((len(labels), len(known)), np.nan)
    rows = {label: row for label, row in zip(known, np.eye(len(known)), strict=True)}
    for index, label in enumerate(labels):
        if label:
            values[index] = rows[label]
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
