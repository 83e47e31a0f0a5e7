import pytest

from trn_plugin.datasets.mtfl_format import MTFLRow, read_rows, write_rows
from trn_plugin.errors import DataError

GOOD = "a\\b.jpg 1.5 2 3 4 5 6 7 8 9 10 1 2 1 5"


def write(tmp_path, *lines, end="\r\n "):
    path = tmp_path / "training.txt"
    path.write_bytes(end.join([*lines, ""]).encode())
    return str(path)


@pytest.mark.parametrize("separator", ["\\", "/"])
def test_rows_survive_writing_and_reading(tmp_path, separator):
    rows = [
        MTFLRow(
            "net/x 1.jpg".replace(" ", "_"), (1.25, 2, 3, 4, -5), (6, 7, 8, 9, 10.5), 1, 2, 1, 5
        ),
        MTFLRow("lfw/y.jpg", (1e2, 2, 3, 4, 5), (6, 7, 8, 9, 10), 2, 1, 2, 1),
    ]
    path = tmp_path / "rows.txt"
    write_rows(str(path), rows, separator)
    assert read_rows(str(path)) == [row._replace(line=i) for i, row in enumerate(rows, 1)]
    raw = path.read_bytes()
    assert raw.endswith(b"\r\n ")
    assert raw.count(b"\r\n ") == 2
    assert f"net{separator}x_1.jpg".encode() in raw


def test_coordinates_are_xs_then_ys(tmp_path):
    row = read_rows(write(tmp_path, GOOD))[0]
    assert row.path == "a/b.jpg"
    assert row.xs == (1.5, 2, 3, 4, 5)
    assert row.ys == (6, 7, 8, 9, 10)
    assert (row.gender, row.smile, row.glasses, row.pose) == (1, 2, 1, 5)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n ", "\n\n"])
def test_line_ends_and_empty_lines_do_not_matter(tmp_path, end):
    rows = read_rows(write(tmp_path, GOOD, GOOD, GOOD, end=end))
    assert len(rows) == 3
    assert len({row[:-1] for row in rows}) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GOOD.rsplit(" ", 1)[0], r"training.txt:3: expected 15 columns .*, found 14"),
        (GOOD + " 1", r"training.txt:3: expected 15 columns .*, found 16"),
        (GOOD.replace("1.5", "1,5"), r"training.txt:3: .*coordinate.*'1,5'"),
        (GOOD.replace("1.5", "nan"), r"training.txt:3: .*finite.*'nan'"),
        (GOOD.replace("1.5", "inf"), r"training.txt:3: .*finite.*'inf'"),
        (GOOD.replace("1.5", "1e39"), r"training.txt:3: .*within 1e\+06.*'1e39'"),
        (GOOD[:-1] + "6", r"training.txt:3: .*pose.*1\.\.5.*'6'"),
        (GOOD[:-1] + "0", r"training.txt:3: .*pose.*1\.\.5.*'0'"),
        (GOOD[:-1] + "3.0", r"training.txt:3: .*pose.*'3.0'"),
        (GOOD[:-1].replace(" 1 2 1 ", " 3 2 1 ") + "5", r"training.txt:3: .*gender.*1\.\.2.*'3'"),
        (GOOD.replace("a\\b", "..\\b"), r"training.txt:3: .*inside the data root"),
        (GOOD.replace("a\\b", "a/../../b"), r"training.txt:3: .*inside the data root"),
        (GOOD.replace("a\\b", "/etc/b"), r"training.txt:3: .*inside the data root"),
        (GOOD.replace("a\\b", "C:\\b"), r"training.txt:3: .*inside the data root"),
    ],
)
def test_a_bad_row_is_named(tmp_path, bad, message):
    path = write(tmp_path, GOOD, GOOD, bad, GOOD)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_rows_or_text_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        read_rows(write(tmp_path, " "))
    path = tmp_path / "binary.txt"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match=r"binary\.txt:1: expected a text file"):
        read_rows(str(path))
