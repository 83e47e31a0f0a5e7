"""CelebA's files as the usual mirror has them, and as editors and spreadsheets leave them."""

import os

import numpy as np
import pytest
from celeba_files import make_celeba

from trn_plugin.datasets import CelebA
from trn_plugin.datasets.celeba_format import read_attributes, read_partition, read_table
from trn_plugin.datasets.label_csv import csv_rows
from trn_plugin.errors import DataError

NAMES = ("Bald", "Hat", "Young")
ROWS = ["1.jpg,-1,1,-1", "2.jpg,1,1,-1"]
BOM = b"\xef\xbb\xbf"


def csv_file(rows=ROWS, end="\n"):
    return end.join([",".join(("image_id", *NAMES)), *rows, ""]).encode()


@pytest.fixture
def write(tmp_path):
    def write(data, name="labels.csv"):
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("mark", [b"", BOM])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quotes", [False, True])
def test_labels(write, mark, end, quotes):
    data = csv_file(end=end)
    if quotes:
        data = b'"' + data.replace(b",", b'","').replace(end.encode(), b'"' + end.encode() + b'"')
        data = data.removesuffix(b'"')
    table = read_attributes(write(mark + data))
    assert table.names == NAMES
    assert table.files.tolist() == ["1.jpg", "2.jpg"]
    assert table.lines.tolist() == [2, 3]
    np.testing.assert_array_equal(table.values, [[0, 1, 0], [1, 1, 0]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (csv_file([*ROWS, "3.jpg,1,1"]), "csv:4: expected 4 columns.* found 3"),
        (csv_file([*ROWS, "3.jpg,1,1,"]), "csv:4: expected 4 columns.* found 3"),
        (csv_file([*ROWS, "3.jpg,1,,1"]), "csv:4: expected Hat to be a whole number, found ''"),
        (csv_file([*ROWS, '3.jpg,"",1,1'], "\r\n"), "csv:4: expected Bald .*found ''"),
        (csv_file([*ROWS, "3.jpg,1,,1,1"]), "csv:4: expected 4 columns.* found 5"),
        (csv_file([*ROWS, ",1,1,1"]), "csv:4: expected a plain file name, found ''"),
        (csv_file([*ROWS, "3.jpg,1,1,0"]), "csv:4: expected Young to be -1 or 1, found 0"),
        (csv_file([*ROWS, "3.jpg,1,a,1"]), "csv:4: expected Hat to be a whole number, found 'a'"),
        (csv_file([*ROWS, ROWS[0]]), r"csv:4: 1\.jpg is listed twice"),
        (csv_file([]), "csv: no rows"),
        (b"image_id,Bald,Bald\n1.jpg,1,1\n", "csv:1: .*each once, found 'image_id,Bald,Bald'"),
        (b"1.jpg,1,1\n2.jpg,1,1\n", r"csv:1: expected the columns' names.*found '1\.jpg,1,1'"),
        (b"202,599\nBald\n1.jpg 1\n", "csv:1: expected the number of pictures, found '202,599'"),
        (b"2 pictures\nBald\n1.jpg 1\n", "csv:1: expected the number of pictures, found '2 pict"),
    ],
)
def test_what_does_not_fit_is_named(write, data, message):
    with pytest.raises(DataError, match=message) as caught:
        read_attributes(write(data))
    assert "\n" not in str(caught.value)


def test_commas_at_the_end_of_a_line_are_no_cells(write):
    table = read_attributes(write(csv_file([f"{ROWS[0]},", f'{ROWS[1]}, ,""', ",,,,"])))
    np.testing.assert_array_equal(table.values, [[0, 1, 0], [1, 1, 0]])


def test_other_columns_are_named_with_their_line(write):
    with pytest.raises(DataError, match=r"csv:1: expected the columns x y, found 'Bald Hat Young'"):
        read_table(write(csv_file()), ("x", "y"))


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
    table = read_partition(write(data))
    assert table.files.tolist() == ["1.jpg", "2.jpg"]
    assert table.values.ravel().tolist() == [0, 2]
    assert table.lines.tolist() == lines


def test_a_first_row_of_a_partition_is_no_header(write):
    with pytest.raises(DataError, match=r"csv:1: expected one of 0 \(train\).*found 7"):
        read_partition(write(b"1.jpg,7\n2.jpg,2\n"))


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
def test_the_mirror_is_read_as_the_text_files_are(tmp_path, nested):
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
    steps = [dict(type="trn_plugin.LoadImage"), dict(type="trn_plugin.FaceBox", mode="whole")]
    steps += [
        dict(type="trn_plugin.CropResize", size=16),
        dict(type="trn_plugin.PackMultiTaskInputs"),
    ]
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
