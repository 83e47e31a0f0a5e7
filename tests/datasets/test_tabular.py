"""A user's CSV file as a data set."""

import os

import numpy as np
import pytest
import torch
from label_tables import (
    HEADER,
    LABELS,
    NO_EARS,
    PIPELINE,
    ROW,
    changed,
    make,
    records,
    write,
)

from trn_plugin.datasets import multi_task_collate
from trn_plugin.errors import ConfigError, DataError, PictureError
from trn_plugin.evaluation.label_similarity import label_features
from trn_plugin.tasks import read_tasks


def test_large_values_keep_float64_precision(tmp_path):
    stamps = [1_700_000_000_000 + 250 * i for i in range(4)]
    root = write(tmp_path, *[changed(weight=str(stamp)) for stamp in stamps])
    dataset = make(root, "labels.csv", LABELS, pipeline=PIPELINE)
    batch = multi_task_collate([dataset[i] for i in range(4)])["data_samples"]
    assert batch.targets["size"].ravel().tolist() == stamps
    assert batch.targets["ears"].dtype == torch.float32
    assert dataset.labels_of("size").ravel().tolist() == stamps


def test_a_row_of_every_kind(tmp_path):
    dataset = make(write(tmp_path, ROW), "labels.csv", LABELS, pipeline=PIPELINE)
    record = dataset.get_data_info(0)
    assert np.array_equal(record["gt"]["ears"], [[10, 20], [30.5, 20]])
    assert record["gt"]["coat"] == 1
    assert record["gt"]["marks"].tolist() == [1, 0]
    assert record["gt"]["size"].tolist() == [4.25]
    assert np.array_equal(record["landmarks"], record["gt"]["ears"])
    assert record["where"] == "labels.csv:2"
    assert dataset.metainfo["dataset"] == "labels.csv"
    named = make(str(tmp_path), "labels.csv", LABELS, metainfo=dict(dataset="coats"))
    assert named.metainfo["dataset"] == "coats"
    tasks = dataset.metainfo["tasks"]
    assert tasks["ears"] == dict(kind="landmarks", names=("left", "right"), flip=(1, 0))
    assert tasks["coat"]["classes"] == ("short", "long")
    sample = dataset[0]["data_samples"]
    assert {task: tuple(value.shape) for task, value in sample.gt.items()} == dict(
        ears=(2, 2), coat=(), marks=(2,), size=(1,)
    )
    assert sample.box_source.startswith("perturbed landmarks' box")


def test_no_rows_at_all(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv: has no rows below its header$"):
        make(write(tmp_path), "labels.csv", LABELS)
    root = write(tmp_path, [*ROW, "train"], header=[*HEADER, "split"])
    with pytest.raises(DataError, match=r"labels\.csv: has no row of 'test'$"):
        make(root, "labels.csv", LABELS, split="test", split_column="split")


def test_columns_by_other_names(tmp_path):
    header = ["file", "x1", "y1", "x2", "y2", "kind of coat", "3", "weight"]
    root = write(tmp_path, ["a.png", *"1234", "2", "True", "7"], header=header)
    labels = dict(
        ears=dict(kind="landmarks", points=dict(left=("x1", "y1"), right=("x2", "y2"))),
        coat=dict(kind="class", column="kind of coat", classes={1: "short", 2: "long"}),
        marks=dict(kind="attributes", columns=["3"]),
        weight=dict(kind="values"),
    )
    dataset = make(root, "labels.csv", labels, image_column="file", tasks=["coat"])
    assert dataset.metainfo["tasks"] == dict(coat=dict(kind="class", classes=("short", "long")))
    record = dataset.get_data_info(0)
    assert record["gt"] == dict(coat=1)
    assert np.array_equal(record["landmarks"], [[1, 2], [3, 4]])  # for the box, even if not chosen


def test_empty_cells_are_missing_labels(tmp_path, logged):
    rows = [
        ROW,
        changed(coat="", weight="nan"),
        changed(left_x="", left_y="", right_x="", right_y=""),
        changed(striped=""),
    ]
    dataset = make(write(tmp_path, *rows), "labels.csv", LABELS)
    found = records(dataset)
    assert [set(LABELS) - set(record["gt"]) for record in found] == [
        set(),
        {"coat", "size"},
        {"ears"},
        {"marks"},
    ]
    assert found[2]["landmarks"] is None
    assert "1 rows have some of marks's columns but not all" in logged()
    features = label_features(found, read_tasks(dataset.metainfo["tasks"]))
    assert [np.isnan(v).all(1).tolist().index(True) for v in features.values()] == [2, 1, 3, 1]


def test_numbers_as_spreadsheets_write_them(tmp_path):
    rows = [changed(striped="1.0", white="FALSE", coat="2.0"), changed(coat="1")]
    labels = {**LABELS, "coat": dict(kind="class", classes=[1, 2])}
    found = records(make(write(tmp_path, *rows), "labels.csv", labels))
    assert [record["gt"]["coat"] for record in found] == [1, 0]
    assert found[0]["gt"]["marks"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (dict(left_x="wide"), r"^labels\.csv:3: expected left_x in pixels, found 'wide'$"),
        (dict(left_x="1e9"), r"^labels\.csv:3: expected left_x in pixels, within 1e\+06"),
        (dict(coat="curly"), r"^labels\.csv:3: expected coat to be one of short, long, found 'cur"),
        (dict(white="2"), r"^labels\.csv:3: expected white to be 0 or 1, found '2'$"),
        (dict(weight="heavy"), r"^labels\.csv:3: expected weight to be a number, found 'heavy'$"),
        (dict(weight="inf"), r"^labels\.csv:3: expected weight to be a number, finite"),
        (dict(weight="1e39"), r"^labels\.csv:3: expected weight to be a number, within 1e\+30"),
        (dict(image=""), r"^labels\.csv:3: expected image to be a path, found ''$"),
        (dict(image="../b.png"), r"^labels\.csv:3: expected a path inside the data root"),
        (dict(image="/etc/b.png"), r"^labels\.csv:3: expected a path inside the data root"),
        (dict(coat="c" * 500), r"found 'c{60}\.\.\.'$"),
    ],
)
def test_a_bad_cell_is_one_line(tmp_path, cells, message):
    root = write(tmp_path, ROW, changed(**cells), pictures=False)
    with pytest.raises(DataError, match=message):
        make(root, "labels.csv", LABELS)


def test_a_missing_column_names_the_closest(tmp_path):
    header = ["coats" if name == "coat" else name for name in HEADER]
    root = write(tmp_path, ROW, header=header)
    with pytest.raises(DataError, match=r"labels\.csv:1: has no column 'coat'; did you .*'coats'"):
        make(root, "labels.csv", LABELS)
    with pytest.raises(DataError, match=r"has no column 'split'; .*split_column=None"):
        make(root, "labels.csv", dict(s=LABELS["size"]), split="val", split_column="split")


def test_a_column_of_splits(tmp_path):
    rows = [[*ROW, split] for split in ("train", "val", "train", "test")]
    root = write(tmp_path, *rows, header=[*HEADER, "split"])
    for split, lines in ((None, [2, 3, 4, 5]), ("train", [2, 4]), ("val", [3]), ("test", [5])):
        dataset = make(root, "labels.csv", LABELS, split=split, split_column="split")
        assert [record["row"] for record in records(dataset)] == lines
    write(tmp_path, *rows[:2], [*ROW, "valid"], header=[*HEADER, "split"])
    with pytest.raises(DataError, match=r"csv:4: expected split to be one of train.*'valid'"):
        make(root, "labels.csv", LABELS, split="val", split_column="split")


def test_a_picture_in_two_splits_is_a_warning(tmp_path, logged):
    rows = [[*ROW, "train"], [*changed(image="b.png"), "train"], [*ROW, "train"]]
    make(write(tmp_path, *rows, header=[*HEADER, "split"]), "labels.csv", LABELS, split="train")
    options = dict(split="train", split_column="split")
    make(str(tmp_path), "labels.csv", LABELS, **options)
    assert "in another split" not in logged()
    rows[1:] = [[*changed(image="b.png"), "val"], [*ROW, "val"]]
    make(write(tmp_path, *rows, header=[*HEADER, "split"]), "labels.csv", LABELS, **options)
    assert "labels.csv:4: 'a.png' is also in another split (1 such" in logged()


def test_random_splits_depend_only_on_the_picture_and_the_seed(tmp_path):
    names = [f"{i // 2}.png" for i in range(400)]  # every picture has two rows
    root = write(tmp_path, *[changed(image=name) for name in names], pictures=False)

    def split(name, **options):
        dataset = make(root, "labels.csv", LABELS, split=name, **options)
        return [os.path.basename(record["img_path"]) for record in records(dataset)]

    parts = {name: split(name) for name in ("train", "val", "test")}
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert not set(parts["train"]) & set(parts["val"])
    for name, share in (("val", 0.1), ("test", 0.1), ("train", 0.8)):
        assert len(parts[name]) / len(names) == pytest.approx(share, abs=0.06)
    assert split("val", split_seed=1) != parts["val"]
    write(tmp_path, *[changed(image=name) for name in names[:200]], pictures=False)
    assert split("val") == [name for name in parts["val"] if int(name.split(".")[0]) < 100]


def test_single_points_may_be_missing(tmp_path, logged):
    rows = [ROW, changed(left_x=""), changed(right_x="nan", right_y=""), changed(**NO_EARS)]
    root = write(tmp_path, *rows)
    dataset = make(root, "labels.csv", LABELS, pipeline=PIPELINE, box="whole")
    found = [record["gt"].get("ears") for record in records(dataset)]
    nowhere = [np.nan, np.nan]
    np.testing.assert_array_equal(
        found[:3], [[[10, 20], [30.5, 20]], [nowhere, [30.5, 20]], [[10, 20], nowhere]]
    )
    assert found[3] is None
    assert "labels.csv: 2 rows lack some of the points of ears" in logged()
    batch = multi_task_collate([dataset[i] for i in range(4)])["data_samples"]
    assert batch.masks["ears"].tolist() == [True, True, True, False]
    assert batch.whole("ears").tolist() == [True, False, False, False]
    assert batch.parts["ears"][1].tolist() == [False, False, True, True]
    assert (batch.targets["ears"][1, 2:] == torch.tensor([30.5 / 50, 20 / 40])).all()
    assert len(dataset.labels_of("ears")) == 3


def test_a_column_of_visibility(tmp_path):
    header = [*HEADER, "seen"]
    labels = dict(
        ears=dict(
            kind="landmarks", points=dict(left=("left_x", "left_y", "seen"), right=HEADER[3:5])
        )
    )
    rows = [[*ROW, "0"], [*ROW, "2"], [*changed(right_x=""), "0"]]
    dataset = make(write(tmp_path, *rows, header=header), "labels.csv", labels)
    found = [record["gt"].get("ears") for record in records(dataset)]
    assert [bool(np.isnan(each[0, 0])) for each in found[:2]] == [True, False]
    assert found[2] is None


def test_a_missing_picture_is_reported_before_the_run(tmp_path, logged):
    root = write(tmp_path, ROW, changed(image="b.png"))
    os.remove(tmp_path / "b.png")
    with pytest.raises(PictureError, match=r"labels\.csv:3: no picture .*b\.png; 1 of 2 pict"):
        make(root, "labels.csv", LABELS, pipeline=PIPELINE)
    options = dict(pipeline=PIPELINE, skip_unreadable=True)
    assert len(make(root, "labels.csv", LABELS, **options)) == 1
    assert "left out" in logged()


def test_links_may_not_lead_out(tmp_path):
    write(tmp_path / "other", ROW)
    root = write(tmp_path / "data", changed(image="link.png"), pictures=False)
    os.symlink(tmp_path / "other" / "a.png", tmp_path / "data" / "link.png")
    with pytest.raises(DataError, match=r"labels\.csv:2: .*link\.png is a symbolic link out of"):
        make(root, "labels.csv", LABELS, pipeline=PIPELINE)
    options = dict(pipeline=PIPELINE, follow_links=True)
    assert len(make(root, "labels.csv", LABELS, **options)) == 1
    with pytest.raises(DataError, match="image_folder: expected a path inside the data root"):
        make(root, "labels.csv", LABELS, image_folder="..")


def test_missing_files_and_rows_are_named(tmp_path):
    with pytest.raises(DataError, match=r"data root '.*absent' is not a folder"):
        make(str(tmp_path / "absent"), "labels.csv", LABELS)
    with pytest.raises(DataError, match=r"annotation file '.*labels\.csv' is missing"):
        make(str(tmp_path), "labels.csv", LABELS)


def test_random_flip_needs_flip_pairs(tmp_path):
    labels = dict(ears=dict(kind="landmarks", points=["left", "right"]))
    pipeline = [*PIPELINE[:-1], dict(type="RandomFlip", prob=1.0), PIPELINE[-1]]
    dataset = make(write(tmp_path, ROW), "labels.csv", labels, pipeline=pipeline)
    with pytest.raises(ConfigError, match="flip_pairs"):
        dataset[0]


def test_labels_of_many_rows_equal_those_of_the_records(tmp_path):
    rows = [ROW, changed(coat=""), changed(left_x="", left_y="", weight="7"), changed(white="")]
    dataset = make(write(tmp_path, *rows), "labels.csv", LABELS)
    chosen = np.array([3, 0, 2, 2, 1])
    for part, numbers in ((dataset, chosen), (dataset.get_subset([2, 0]), np.array([1, 0, 0]))):
        for task in LABELS:
            labels = [part.get_data_info(i)["gt"].get(task) for i in sorted(numbers.tolist())]
            labels = [label for label in labels if label is not None]
            reader = read_tasks(part.metainfo["tasks"])[task]
            found = part.labels_of(task, numbers)
            assert len(found) == len(labels)
            assert np.array_equal(
                np.sort(found, axis=0),
                np.sort(reader.targets(labels, np.float64), axis=0),
                equal_nan=True,
            )


def test_no_label_at_all(tmp_path, logged):
    rows = [changed(striped="", white="", left_x="", left_y="", right_x="", right_y="")] * 2
    dataset = make(write(tmp_path, *rows), "labels.csv", LABELS)
    assert dataset.labels_of("marks").shape == (0, 2)
    assert dataset.labels_of("ears").shape == (0, 4)
    assert set(dataset.get_data_info(1)["gt"]) == {"coat", "size"}
    assert "no row has a label of ears" in logged()


def test_a_record_is_a_copy(tmp_path):
    dataset = make(write(tmp_path, ROW), "labels.csv", LABELS)
    dataset.get_data_info(0)["gt"]["ears"][:] = 0
    assert dataset.get_data_info(0)["gt"]["ears"][0].tolist() == [10, 20]
