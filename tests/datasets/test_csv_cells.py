"""Columns of a CSV file, read in batches, equal what the csv module reads."""

import csv
import random

import numpy as np
import pytest

from trn_plugin.datasets.csv_cells import Cells, plain_lines, read_plain, read_quoted
from trn_plugin.datasets.label_csv import csv_batches, csv_header, csv_rows, read_label_csv
from trn_plugin.errors import DataError
from trn_plugin.tasks.cells import is_missing

CELLS = ["", "nan", "NaN", "1", " 2.5 ", "+3", "1e-3", "-0", "1_000", "inf", "x y", "é", "٣", "0x1"]
TEXT = """file, age,breed,weight
a.jpg,3,tabby,4.5
b.jpg,,siam,3e0
c.jpg,12,,-1

d.jpg,nan,tabby,2
"""


def flat(batches):
    """Lines, and cells by column, of all batches."""
    batches = list(batches)
    lines = [line for batch in batches for line in batch.lines.tolist()]
    names = batches[0].cells if batches else ()
    return lines, {n: [c for b in batches for c in b.cells[n].tolist()] for n in names}


@pytest.mark.parametrize("seed", range(8))
def test_plain_files_give_the_same_as_the_csv_module(tmp_path, seed):
    draw = random.Random(seed)
    end = draw.choice(["\n", "\r\n"])
    lines = ["a, b ,c"]
    for _ in range(draw.randrange(1, 60)):
        lines.append(",".join(draw.choice(CELLS) for _ in range(3)))
        lines += [""] * (draw.random() < 0.2)
    text = draw.choice(["", "\ufeff"]) + end.join(lines) + draw.choice(["", end, end + end])
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    found = plain_lines(str(path))
    header = csv_header(str(path))
    rows = csv_rows(str(path))
    next(rows)
    expected = flat(read_quoted(rows, header, ["c", "a"]))
    assert flat(read_plain(str(path), found, header, ["c", "a"])) == expected


@pytest.mark.parametrize(
    "rows",
    [
        [["a", "b"], ["x,y", "1"], ["two\nlines", "2"], ["z", "3"]],
        [["a", "b"], ['in "quotes"', "1"]],
    ],
)
def test_quoted_cells(tmp_path, rows):
    path = tmp_path / "table.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    assert plain_lines(str(path)) is None
    lines, cells = flat(csv_batches(str(path), ["a", "b"], ["a", "b"]))
    assert [list(row) for row in zip(cells["a"], cells["b"], strict=True)] == rows[1:]
    assert lines == ([2, 4, 5] if len(rows) > 2 else [2])


def test_a_bad_row_in_a_later_batch_names_its_line(tmp_path):
    path = tmp_path / "table.csv"
    good = [f"picture_{row:050d},{row}" for row in range(100_000)]  # two batches
    for fault, message in [("a", "expected 2 columns, found 1"), ("\udc80,1", "in UTF-8")]:
        text = "\n".join(["name,value", *good, fault, "b,2"])
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(DataError, match=rf"table\.csv:100002: .*{message}"):
            list(csv_batches(str(path), ["name", "value"], ["name"]))


def test_cells():
    cells = Cells(CELLS)
    texts = [cell.strip() for cell in CELLS]
    assert cells.tolist() == texts
    assert cells.missing.tolist() == [is_missing(text) for text in texts]
    numbers = [np.nan, np.nan, np.nan, 1, 2.5, 3, 1e-3, 0, np.nan, np.inf, *[np.nan] * 4]
    assert np.array_equal(cells.numbers(), numbers, equal_nan=True)
    index, distinct = Cells(["b", "a", "b"]).distinct()
    assert [distinct[i] for i in index] == ["b", "a", "b"]
    assert cells.take(np.array([11, 4])).tolist() == ["é", "2.5"]


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return str(path)


@pytest.mark.parametrize("text", [TEXT, "\ufeff" + TEXT.replace("\n", "\r\n")])
def test_numbers_classes_and_missing_cells(tmp_path, text):
    found = read_label_csv(write(tmp_path, text), ["weight", "age"], ["breed"])
    nan = np.nan
    assert list(found) == ["weight", "age", "breed"]
    assert np.array_equal(found["weight"], [[4.5], [3], [-1], [2]])
    assert np.array_equal(found["age"], [[3], [nan], [12], [nan]], equal_nan=True)
    breeds = [[0, 1], [1, 0], [nan, nan], [0, 1]]  # siam, tabby
    assert np.array_equal(found["breed"], breeds, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "columns", "classes", "message"),
    [
        (TEXT, None, (), r"labels\.csv:2: expected file to be a number .*, found 'a\.jpg'"),
        (TEXT, ["size"], (), r"has no column 'size'; expected one of file, age, breed, weight"),
        ("a,b\n1,2\n3\n", None, (), r"labels\.csv:3: expected 2 columns, found 1"),
        ("a,b\n1,inf\n", None, (), r"labels\.csv:2: expected b to be a number .*found 'inf'"),
        ("a,a\n1,2\n", None, (), r"labels\.csv:1: expected the columns' names, each once"),
        ("", None, (), r"labels\.csv:1: expected the columns' names"),
        ("1,2\n3,4\n", None, (), r"labels\.csv:1: expected a header"),
        ("a,b\n", None, (), r"has no rows below its header"),
        ("a,b\n1,\n", None, ("b",), r"expected 1 to 1000 classes in column b, found 0"),
    ],
)
def test_unreadable_files_are_named(tmp_path, text, columns, classes, message):
    with pytest.raises(DataError, match=message):
        read_label_csv(write(tmp_path, text), columns, classes)


def test_files_that_are_not_text(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: cannot be read: No such file"):
        read_label_csv(str(tmp_path / "absent.csv"))
    with pytest.raises(DataError, match=r":2: expected a CSV file in UTF-8"):
        read_label_csv(write(tmp_path, "a,b\nä,1\n", "latin-1"))
    many = "a\n" + "\n".join(f"x{i}" for i in range(1001))
    with pytest.raises(DataError, match="found 1001"):
        read_label_csv(write(tmp_path, many), [], ["a"])
