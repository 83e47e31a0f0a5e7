import numpy as np
import pytest

from trn_plugin.datasets.label_csv import read_label_csv
from trn_plugin.errors import DataError

TEXT = """file, age,breed,weight
a.jpg,3,tabby,4.5
b.jpg,,siam,3e0
c.jpg,12,,-1

d.jpg,nan,tabby,2
"""


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


def test_all_columns_by_default(tmp_path):
    found = read_label_csv(write(tmp_path, "a,b\n1,2\n3,4\n"))
    assert np.array_equal(np.hstack([found["a"], found["b"]]), [[1, 2], [3, 4]])


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
def test_what_cannot_be_read_is_named(tmp_path, text, columns, classes, message):
    with pytest.raises(DataError, match=message):
        read_label_csv(write(tmp_path, text), columns, classes)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: cannot be read: No such file"):
        read_label_csv(str(tmp_path / "absent.csv"))
    with pytest.raises(DataError, match=r":2: expected a CSV file in UTF-8"):
        read_label_csv(write(tmp_path, "a,b\nä,1\n", "latin-1"))
    many = "a\n" + "\n".join(f"x{i}" for i in range(1001))
    with pytest.raises(DataError, match="found 1001"):
        read_label_csv(write(tmp_path, many), [], ["a"])
