import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from trn_plugin.datasets import MTFL, SampleDraw
from trn_plugin.datasets.mtfl_format import MTFLRow, read_rows, write_rows
from trn_plugin.errors import ConfigError, DataError

PIPELINE = [
    dict(type="trn_plugin.LoadImage"),
    dict(type="trn_plugin.FaceBox", mode="perturbed"),
    dict(type="trn_plugin.CropResize"),
    dict(type="trn_plugin.PackMultiTaskInputs"),
]
GOOD = "a\\b.jpg 1.5 2 3 4 5 6 7 8 9 10 1 2 1 5"


def records(dataset):
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def rows(dataset):
    return [record["row"] for record in records(dataset)]


def test_all_tasks_of_a_row(tmp_path):
    (tmp_path / "training.txt").write_bytes(b"f\\a.jpg 1 2 3 4 5 6 7 8 9 10 2 1 2 4\r\n ")
    tasks = ("pose", "landmarks", "gender", "smile", "glasses")
    dataset = MTFL(str(tmp_path), tasks=tasks)
    record = dataset.get_data_info(0)
    assert tuple(dataset.metainfo["tasks"]) == tasks == tuple(record["gt"])
    points = np.arange(1, 11).reshape(2, 5).T  # the file counts pixels from 1
    np.testing.assert_array_equal(record["gt"]["landmarks"], points - 0.5)
    np.testing.assert_array_equal(record["landmarks"], points - 0.5)
    as_written = MTFL(str(tmp_path), tasks=tasks, pixel_centre=0.5).get_data_info(0)
    np.testing.assert_array_equal(as_written["gt"]["landmarks"], points)
    assert record["gt"]["pose"] == 3
    assert [record["gt"][task].tolist() for task in tasks[2:]] == [[0.0], [1.0], [0.0]]
    assert record["where"] == "training.txt:1"
    assert os.path.normpath(record["img_path"]) == str(tmp_path / "f" / "a.jpg")


def test_only_chosen_tasks_but_always_landmarks_for_boxes(toy_root):
    dataset = MTFL(toy_root, tasks=["smile"])
    assert list(dataset.metainfo["tasks"]) == ["smile"]
    assert set(dataset.get_data_info(0)["gt"]) == {"smile"}
    assert dataset.get_data_info(0)["landmarks"].shape == (5, 2)


@pytest.mark.parametrize("tasks", [["pose", "age"], "pose", [], ["pose", "pose"]])
def test_bad_tasks_are_config_errors(toy_root, tasks):
    with pytest.raises(ConfigError, match=r"^tasks: "):
        MTFL(toy_root, tasks=tasks)


def test_a_missing_root_says_where_to_get_the_data(tmp_path):
    with pytest.raises(DataError) as caught:
        MTFL(str(tmp_path / "nowhere"))
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(tmp_path / "nowhere"), "MTFL_ROOT", "TCDCN", "mmlab.ie.cuhk.edu.hk"):
        assert part in text


def test_a_missing_annotation_file_is_named(toy_root):
    with pytest.raises(DataError, match=r"other\.txt' is missing: set MTFL_ROOT"):
        MTFL(toy_root, ann_file="other.txt")


def test_a_broken_picture_is_an_error_with_path_and_row(toy_root, tmp_path):
    root = tmp_path / "faces"
    shutil.copytree(toy_root, root)
    dataset = MTFL(str(root), pipeline=PIPELINE, input_size=32)
    broken, missing = (dataset.get_data_info(i)["img_path"] for i in (1, 2))
    Path(broken).write_bytes(b"no picture")
    os.remove(missing)
    assert dataset[0]["inputs"].shape == (3, 32, 32)
    with pytest.raises(DataError, match=r"training\.txt:2: .*00002\.jpg.*not a readable picture"):
        dataset[1]
    with pytest.raises(DataError, match=r"training\.txt:3: .*00003\.jpg.*No such file"):
        dataset[2]


def test_an_error_inside_a_transform_names_the_record(toy_root):
    def fail(results):
        raise ZeroDivisionError("by\nzero")

    dataset = MTFL(toy_root, pipeline=[fail])
    pattern = r"^training\.txt:5: .*00005\.jpg: ZeroDivisionError: by zero$"
    with pytest.raises(DataError, match=pattern):
        dataset[4]
    dataset = MTFL(toy_root, pipeline=[lambda results: None])
    with pytest.raises(DataError, match=r"training\.txt:5.*returned no sample"):
        dataset[4]


@pytest.mark.parametrize("val_size", [1, 17, 59])
def test_split_is_exact_and_disjoint(toy_root, val_size):
    train = rows(MTFL(toy_root, split="train", val_size=val_size))
    val = rows(MTFL(toy_root, split="val", val_size=val_size))
    assert len(val) == val_size
    assert sorted(train + val) == rows(MTFL(toy_root))


def test_split_depends_on_its_seed_and_grows_with_its_size(toy_root):
    def val(**kwargs):
        return set(rows(MTFL(toy_root, split="val", **kwargs)))

    assert val(val_size=20) != val(val_size=20, split_seed=1)
    assert val(val_size=10) < val(val_size=20)


@pytest.mark.parametrize(
    "kwargs", [dict(split="dev"), *(dict(split="val", val_size=n) for n in (0, 60, 1.5))]
)
def test_bad_splits_are_config_errors(toy_root, kwargs):
    with pytest.raises(ConfigError, match=r"^(split|val_size): expected"):
        MTFL(toy_root, **kwargs)


def test_indices_choose_rows(toy_root):
    assert rows(MTFL(toy_root, indices=3)) == [1, 2, 3]
    assert rows(MTFL(toy_root, indices=-2)) == [59, 60]
    assert rows(MTFL(toy_root, indices=[4, 0])) == [5, 1]


def test_perturbed_boxes_belong_to_the_row_not_to_the_run(toy_root):
    def boxes(draw, **kwargs):
        dataset = MTFL(toy_root, pipeline=PIPELINE, input_size=16, **kwargs)
        samples = [dataset[draw(i)]["data_samples"] for i in range(len(dataset))]
        return {
            record["row"]: sample.box
            for record, sample in zip(records(dataset), samples, strict=True)
        }

    everything = boxes(int)
    assert boxes(lambda i: SampleDraw(i, epoch=5, seed=9)) == everything
    subset = boxes(int, split="val", val_size=9)
    assert subset == {row: everything[row] for row in subset}
    assert all(everything[row] != box for row, box in boxes(int, box_seed=1).items())


@pytest.mark.real_data
def test_real_file_as_distributed(mtfl_root):
    start = time.process_time()
    dataset = MTFL(mtfl_root)
    assert time.process_time() - start < 2
    assert len(dataset) == 10_000
    data = records(dataset)
    poses = np.array([record["gt"]["pose"] for record in data])
    assert np.bincount(poses).tolist() == [136, 1113, 7445, 1111, 195]
    points = np.array([record["landmarks"] for record in data])
    assert (points[:, 0, 0] < points[:, 1, 0]).all()
    assert len(rows(MTFL(mtfl_root, split="val"))) == 1000
    assert len(rows(MTFL(mtfl_root, split="train"))) == 9000


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
    found = read_rows(write(tmp_path, GOOD, GOOD, GOOD, end=end))
    assert len(found) == 3
    assert len({row[:-1] for row in found}) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GOOD.rsplit(" ", 1)[0], r"training.txt:3: expected 15 columns .*, found 14"),
        (GOOD + " 1", r"training.txt:3: expected 15 columns .*, found 16"),
        (GOOD.replace("1.5", "1,5"), r"training.txt:3: .*coordinate.*'1,5'"),
        (GOOD.replace("1.5", "nan"), r"training.txt:3: .*finite.*'nan'"),
        (GOOD.replace("1.5", "1e39"), r"training.txt:3: .*within 1e\+06.*'1e39'"),
        (GOOD[:-1] + "6", r"training.txt:3: .*pose.*1\.\.5.*'6'"),
        (GOOD[:-1].replace(" 1 2 1 ", " 3 2 1 ") + "5", r"training.txt:3: .*gender.*1\.\.2.*'3'"),
        (GOOD.replace("a\\b", "a/../../b"), r"training.txt:3: .*inside the data root"),
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
