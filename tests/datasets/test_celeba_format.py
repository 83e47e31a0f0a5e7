import os
import time

import numpy as np
import pytest

from trn_plugin.datasets.celeba_format import (
    ATTRIBUTES,
    read_attributes,
    read_partition,
    read_table,
)
from trn_plugin.errors import DataError

NAMES = ("Bald", "Hat", "Young")
ROWS = [("000001.jpg", (-1, 1, -1)), ("2.jpg", (1, 1, -1)), ("a-1.jpg", (-1, -1, 1))]


def listing(rows, names=NAMES, count=None, end="\n"):
    lines = [str(len(rows) if count is None else count), " ".join(names) + " "]
    lines += [f"{name} " + " ".join(f"{value:2d}" for value in values) for name, values in rows]
    return end.join([*lines, ""])


@pytest.fixture
def write(tmp_path):
    def write(text, name="list_attr_celeba.txt"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


@pytest.mark.parametrize("end", ["\n", "\r\n", " \r\n"])
def test_values_names_and_lines(write, end):
    table = read_attributes(write(listing(ROWS, end=end)))
    assert table.names == NAMES
    assert table.files.tolist() == [name for name, _ in ROWS]
    assert table.values.dtype == np.int8
    np.testing.assert_array_equal(table.values, [[0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert table.lines.tolist() == [3, 4, 5]


def test_empty_lines_do_not_matter(write):
    table = read_attributes(write(listing(ROWS).replace("2.jpg", "\n \n2.jpg")))
    assert table.lines.tolist() == [3, 6, 7]


def test_byte_order_mark_and_missing_last_line_end(write):
    table = read_attributes(write(b"\xef\xbb\xbf" + listing(ROWS).rstrip().encode()))
    assert len(table.files) == 3


def plain(data):
    """A slow reader of the same format; None for what it cannot read."""
    lines = data.split(b"\n")
    try:
        count, names = int(lines[0]), lines[1].split()
        rows = [line.split() for line in lines[2:] if line.split()]
        files = [row[0].decode("ascii") for row in rows]
        values = [[{-1: 0, 1: 1}[int(text)] for text in row[1:]] for row in rows]
    except (ValueError, KeyError, IndexError):
        return None
    right = all(len(row) == len(names) for row in values) and len(rows) == count
    return (files, values) if right and len(set(files)) == len(files) else None


def test_a_damaged_byte_is_an_error_or_reads_as_a_plain_reader_reads_it(write):
    data = listing(ROWS, end="\r\n").encode()
    start = data.index(b"000001")
    outcomes = set()
    for position in range(start, len(data)):
        for byte in b" \n-10:/\x00\xff":
            damaged = data[:position] + bytes([byte]) + data[position + 1 :]
            expected = plain(damaged)
            if expected and any(set("/:\x00") & set(name) for name in expected[0]):
                expected = None  # no plain file name
            outcomes.add(expected is None)
            if expected is None:
                with pytest.raises(DataError, match=r"^[^\n]*list_attr_celeba\.txt:\d+: [^\n]+$"):
                    read_attributes(write(damaged))
            else:
                table = read_attributes(write(damaged))
                assert (table.files.tolist(), table.values.tolist()) == expected
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"txt:1: expected the number of pictures, found ''"),
        (listing(ROWS, count="three"), r"txt:1: expected the number of pictures, found 'three'"),
        (listing(ROWS, count=4), r"txt:1: expected the announced 4 rows, found 3"),
        (listing(ROWS).split("\n", 1)[1], r"txt:1: expected the number of pictures, found 'Bald"),
        ("1\na.jpg -1\n", r"txt: no rows"),
        ("1\n-1 1\na.jpg -1 1\n", r"txt:2: expected the columns' names"),
        (listing(ROWS, ("Bald", "Bald", "Hat")), r"txt:2: .*each once"),
        (listing(ROWS, ("Bald", "Hat")), r"txt:3: expected 3 columns.*found 4"),
        (listing(ROWS) + "b.jpg 1 1\n", r"txt:6: expected 4 columns.*found 3"),
        (listing([*ROWS, ("b.jpg", (1, 0, 1))]), r"txt:6: expected Hat to be -1 or 1, found 0"),
        (listing([*ROWS, ("b.jpg", (1, 1, 11))]), r"txt:6: expected Young to be -1 or 1, found 11"),
        (listing(ROWS) + "b.jpg 1 yes 1\n", r"txt:6: expected Hat to be a whole number.*'yes'"),
        (listing(ROWS) + "b.jpg 1 1.0 1\n", r"txt:6: expected Hat to be a whole number.*'1\.0'"),
        (listing([*ROWS, ROWS[0]]), r"txt:6: 000001\.jpg is listed twice"),
        (listing([*ROWS, ("../b.jpg", (1, 1, 1))]), r"txt:6: expected a plain file name"),
        (listing([*ROWS, ("..", (1, 1, 1))]), r"txt:6: expected a plain file name"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", r"txt:1: expected the number of pictures"),
        (b"2\nA\n\x80\x04\x95cposix 1\n", r"txt:3: expected a plain file name"),
    ],
)
def test_what_does_not_fit_is_named(write, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_attributes(write(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"list_attr.*cannot be read: No such file"):
        read_attributes(str(tmp_path / "list_attr_celeba.txt"))


def test_other_columns_are_named(write):
    path = write(listing([("a.jpg", (1, 2, 3))]))
    message = "txt:2: expected the columns x y z, found 'Bald Hat Young'"
    with pytest.raises(DataError, match=message):
        read_table(path, ("x", "y", "z"))


def test_partition(write):
    table = read_partition(write("a.jpg 2\r\nb.jpg 0\r\n"))
    assert table.files.tolist() == ["a.jpg", "b.jpg"]
    assert table.values.ravel().tolist() == [2, 0]
    assert table.lines.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"txt:2: expected one of 0 \(train\).*found 3"):
        read_partition(write("a.jpg 2\nb.jpg 3\n"))
    with pytest.raises(DataError, match=r"txt:1: expected 2 columns.* split, found 1"):
        read_partition(write("a.jpg\n"))
    with pytest.raises(DataError, match=r"txt: no rows"):
        read_partition(write("\n \n"))


def test_kinds_are_kept_apart(write):
    rows = [("a.jpg", (1, -1, 1))]
    path = write(listing(rows))
    assert read_attributes(path).values.tolist() == [[1, 0, 1]]
    assert read_table(path, NAMES).values.tolist() == [[1, -1, 1]]


def test_the_attributes_are_forty_different_ones():
    assert len(set(ATTRIBUTES)) == 40
    assert (ATTRIBUTES[20], ATTRIBUTES[39]) == ("Male", "Young")


@pytest.mark.real_data
def test_real_files_as_distributed(celeba_root):
    path = os.path.join(celeba_root, "list_attr_celeba.txt")
    start = time.process_time()
    table = read_attributes(path)
    assert time.process_time() - start < 2  # 0.3 s on an idle core
    assert table.names == ATTRIBUTES
    assert table.values.shape == (202_599, 40)
    assert table.files[[0, -1]].tolist() == ["000001.jpg", "202599.jpg"]
    share = dict(zip(table.names, table.values.mean(axis=0), strict=True))
    assert share["Male"] == pytest.approx(0.4168, abs=1e-4)
    assert share["Bald"] == pytest.approx(0.0224, abs=1e-4)
    parts = read_partition(os.path.join(celeba_root, "list_eval_partition.txt"))
    assert np.bincount(parts.values.ravel()).tolist() == [162_770, 19_867, 19_962]
