"""CelebA's label files as distributed, from the common CSV mirror, and saved by spreadsheets."""

import os
import time

import numpy as np
import pytest
from celeba_files import PIPELINE, make_celeba

from trn_plugin.datasets import CelebA
from trn_plugin.datasets.celeba_format import (
    ATTRIBUTES,
    read_attributes,
    read_partition,
    read_table,
)
from trn_plugin.datasets.label_csv import csv_rows
from trn_plugin.errors import DataError

NAMES = ("Bald", "Hat", "Young")
ROWS = [("000001.jpg", (-1, 1, -1)), ("2.jpg", (1, 1, -1)), ("a-1.jpg", (-1, -1, 1))]
VALUES = [[0, 1, 0], [1, 1, 0], [0, 0, 1]]
BOM = b"\xef\xbb\xbf"


def listing(rows=ROWS, names=NAMES, count=None, end="\n"):
    """As distributed."""
    lines = [str(len(rows) if count is None else count), " ".join(names) + " "]
    lines += [f"{name} " + " ".join(f"{value:2d}" for value in values) for name, values in rows]
    return end.join([*lines, ""])


def table(*rows, end="\n"):
    """As CSV, with further rows of text after the valid ones."""
    good = [",".join([name, *map(str, values)]) for name, values in ROWS]
    return end.join([",".join(("image_id", *NAMES)), *good, *rows, ""])


def quoted(text):
    return "\n".join(line and f'"{line}"'.replace(",", '","') for line in text.split("\n"))


@pytest.fixture
def write(tmp_path):
    def write(text, name="labels.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        *((listing(end=end), [3, 4, 5]) for end in ("\n", "\r\n", " \r\n")),
        (listing().replace("2.jpg", "\n \n2.jpg"), [3, 6, 7]),
        (BOM + listing().rstrip().encode(), [3, 4, 5]),
        *((table(end=end), [2, 3, 4]) for end in ("\n", "\r\n")),
        (BOM + quoted(table()).encode(), [2, 3, 4]),
        (table(",,,,").replace("1,1,-1\n", '1,1,-1, ,""\n'), [2, 3, 4]),
    ],
)
def test_values_names_and_lines(write, text, lines):
    found = read_attributes(write(text))
    assert found.names == NAMES
    assert found.files.tolist() == [name for name, _ in ROWS]
    assert found.values.dtype == np.int8
    assert found.values.tolist() == VALUES
    assert found.lines.tolist() == lines


def plain(data):
    """Reference reader of the same format; None for an unreadable file."""
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


def test_a_damaged_byte_is_an_error_or_gives_the_reference_readers_values(write):
    data = listing(end="\r\n").encode()
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
                with pytest.raises(DataError, match=r"^[^\n]*labels\.csv:\d+: [^\n]+$"):
                    read_attributes(write(damaged))
            else:
                found = read_attributes(write(damaged))
                assert (found.files.tolist(), found.values.tolist()) == expected
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r":1: expected the number of pictures, found ''"),
        (listing(count="three"), r":1: expected the number of pictures, found 'three'"),
        (listing(count=4), r":1: expected 4 rows by this count, found 3"),
        ("1\na.jpg -1\n", r": no rows"),
        ("1\n-1 1\na.jpg -1 1\n", r":2: expected the columns' names"),
        (listing(names=("Bald", "Bald", "Hat")), r":2: .*each once"),
        (listing(names=("Bald", "Hat")), r":3: expected 3 columns.*found 4"),
        (listing() + "b.jpg 1 1\n", r":6: expected 4 columns.*found 3"),
        (listing([*ROWS, ("b.jpg", (1, 0, 1))]), r":6: expected Hat to be -1 or 1, found 0"),
        (listing() + "b.jpg 1 1.0 1\n", r":6: expected Hat to be a whole number.*'1\.0'"),
        (listing([*ROWS, ROWS[0]]), r":6: 000001\.jpg is listed twice"),
        (listing([*ROWS, ("../b.jpg", (1, 1, 1))]), r":6: expected a plain file name"),
        (listing([*ROWS, ("..", (1, 1, 1))]), r":6: expected a plain file name"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", r":1: expected the number of pictures"),
        (b"2\nA\n\x80\x04\x95cposix 1\n", r":3: expected a plain file name"),
        (table("3.jpg,1,1"), ":5: expected 4 columns.* found 3"),
        (table("3.jpg,1,,1"), ":5: expected Hat to be a whole number, found ''"),
        (table('3.jpg,"",1,1', end="\r\n"), ":5: expected Bald .*found ''"),
        (table("3.jpg,1,,1,1"), ":5: expected 4 columns.* found 5"),
        (table(",1,1,1"), ":5: expected a plain file name, found ''"),
        (table("3.jpg,1,1,0"), ":5: expected Young to be -1 or 1, found 0"),
        (table("2.jpg,1,1,1"), r":5: 2\.jpg is listed twice"),
        ("image_id,Bald,Hat,Young\n", ": no rows"),
        ("image_id,Bald,Bald\n1.jpg,1,1\n", ":1: .*each once, found 'image_id,Bald,Bald'"),
        ("1.jpg,1,1\n2.jpg,1,1\n", r":1: expected the columns' names.*found '1\.jpg,1,1'"),
        ("202,599\nBald\n1.jpg 1\n", ":1: expected the number of pictures, found '202,599'"),
    ],
)
def test_malformed_files_are_named(write, text, message):
    with pytest.raises(DataError, match=f"labels.csv{message}") as caught:
        read_attributes(write(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"list_attr.*cannot be read: No such file"):
        read_attributes(str(tmp_path / "list_attr_celeba.txt"))


@pytest.mark.parametrize(("text", "line"), [(listing(), 2), (table(), 1)])
def test_wrong_columns_are_named(write, text, line):
    with pytest.raises(DataError, match=f":{line}: expected the columns x y, found 'Bald Hat Youn"):
        read_table(write(text), ("x", "y"))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"image_id,partition\n1.jpg,0\n2.jpg,2\n", [2, 3]),
        (BOM + b"image_id,partition\r\n1.jpg,0\r\n2.jpg,2\r\n", [2, 3]),
        (b"1.jpg,0\n2.jpg,2", [1, 2]),
        (BOM + b"1.jpg 0\r\n2.jpg 2\r\n", [1, 2]),
    ],
)
def test_partitions(write, data, lines):
    found = read_partition(write(data))
    assert found.files.tolist() == ["1.jpg", "2.jpg"]
    assert found.values.ravel().tolist() == [0, 2]
    assert found.lines.tolist() == lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 2\nb.jpg 3\n", r":2: expected one of 0 \(train\).*found 3"),
        ("1.jpg,7\n2.jpg,2\n", r":1: expected one of 0 \(train\).*found 7"),
        ("a.jpg\n", r":1: expected 2 columns.* split, found 1"),
        ("1.jpg,0\n2.jpg,,1\n", r":2: expected 2 columns.* found 3"),
        ("\n \n", r": no rows"),
    ],
)
def test_unusable_partitions_are_named(write, text, message):
    with pytest.raises(DataError, match=f"labels.csv{message}"):
        read_partition(write(text))


def as_csv(root, name, header):
    """Write a text file of CelebA as CSV instead."""
    lines = (root / name).read_text().splitlines()
    lines = lines[1:] if header is None else [header, *lines]
    rows = [",".join(line.split()) for line in lines if line.split()]
    if header is None:
        rows[0] = f"image_id,{rows[0]}"
    (root / name).with_suffix(".csv").write_text("\n".join([*rows, ""]))
    (root / name).unlink()


@pytest.mark.parametrize("nested", [False, True])
def test_the_csv_mirror_gives_the_same_as_the_text_files(tmp_path, nested):
    given, mirror = tmp_path / "given", tmp_path / "mirror"
    for root in (given, mirror):
        make_celeba(root, geometry=True)
    for name in os.listdir(mirror):
        if name.endswith(".txt"):
            header = "image_id,partition" if "partition" in name else None
            as_csv(mirror, name, header)
    if nested:
        pictures = mirror / "img_align_celeba"
        pictures.rename(mirror / "inner")
        pictures.mkdir()
        (mirror / "inner").rename(pictures / "img_align_celeba")
    steps = [step for step in PIPELINE if step["type"] != "trn_plugin.RandomFlip"]
    options = dict(tasks=("attributes", "landmarks"), split="val", pipeline=steps)
    theirs, ours = CelebA(str(given), **options), CelebA(str(mirror), **options)
    assert len(theirs) == len(ours) > 0
    for index in range(len(ours)):
        a, b = (data[index]["data_samples"].gt for data in (theirs, ours))
        assert a.keys() == b.keys()
        assert all((a[task] == b[task]).all() for task in a)
    where = ours.get_data_info(0)["where"]
    assert where.startswith("list_eval_partition.csv:")


def test_a_cell_that_is_too_long_is_named_with_its_line(write):
    path = write(b"image,a\n1.png,2\n2.png," + b"3" * 140_000 + b"\n")
    with pytest.raises(DataError, match=r"labels\.csv:3: .*field larger than field limit"):
        list(csv_rows(path))


@pytest.mark.real_data
def test_real_files_as_distributed(celeba_root):
    path = os.path.join(celeba_root, "list_attr_celeba.txt")
    start = time.process_time()
    table = read_attributes(path)
    assert time.process_time() - start < 3  # 0.7 s on an idle core
    assert table.names == ATTRIBUTES
    assert table.values.shape == (202_599, 40)
    assert table.files[[0, -1]].tolist() == ["000001.jpg", "202599.jpg"]
    share = dict(zip(table.names, table.values.mean(axis=0), strict=True))
    assert share["Male"] == pytest.approx(0.4168, abs=1e-4)
    assert share["Bald"] == pytest.approx(0.0224, abs=1e-4)
    parts = read_partition(os.path.join(celeba_root, "list_eval_partition.txt"))
    assert np.bincount(parts.values.ravel()).tolist() == [162_770, 19_867, 19_962]
