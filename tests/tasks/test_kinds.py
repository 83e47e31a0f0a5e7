"""Properties of every kind of task in the package, and of the one in the docs."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from trn_plugin.datasets.csv_cells import Cells
from trn_plugin.errors import ConfigError, DataError
from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample
from trn_plugin.tasks import TASKS, NumbersTask, Task, read_task

DOCS = Path(__file__).resolve().parents[2] / "docs/age_groups"
INFOS = {
    "landmarks": dict(kind="landmarks", names=tuple("abc"), flip=(1, 0, 2), interocular=(0, 1)),
    "class": dict(kind="class", classes=("left", "front", "right"), flip=(2, 1, 0)),
    "attributes": dict(kind="attributes", names=("hat", "beard")),
    "values": dict(kind="values", names=("age", "weight")),
    "ordinal": dict(kind="ordinal", levels=tuple("0123")),
}
CLASSES = ["left", "front", "right"]
COLUMNS = {  # options of a config, and the cells of a label
    "landmarks": (
        dict(points=list("abc"), flip_pairs=[["a", "b"]], interocular=["a", "b"]),
        np.ravel,
    ),
    "class": (
        dict(classes=CLASSES, flip_pairs=[["left", "right"]]),
        lambda label: [CLASSES[label]],
    ),
    "attributes": (dict(columns=["hat", "beard"]), lambda label: label.astype(int)),
    "values": (dict(columns=["age", "weight"]), list),
    "ordinal": (dict(levels=list("0123")), lambda label: [label]),
}


@pytest.fixture(scope="module", autouse=True)
def ordinal():
    """Register a kind of the docs while these tests run."""
    spec = importlib.util.spec_from_file_location("age_task", DOCS / "age_task.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    yield
    del TASKS["ordinal"]


@pytest.fixture(params=INFOS)
def task(request):
    return read_task("t", INFOS[request.param])


def examples(task, count=20, seed=0):
    rng = np.random.default_rng(seed)
    return [task.example(rng) for _ in range(count)]


def output_of(task, label):
    """The output of a perfect head for a label."""
    target = task.targets([label])[0]
    return target.reshape(task.output_shape)


def test_the_docs_list_every_member_of_a_task():
    text = (DOCS.parent / "your_own_task.md").read_text()
    table = text[text.index("What a `Task` defines") :].split("A head names")[0]
    derived = {"check", "targets", "target_dtype", "mapped", "has_points"}
    public = {name for name in vars(Task) if not name.startswith("_")} - derived
    assert set(re.findall("`([a-z_]+)`", table)) >= public


def test_every_kind_is_tested():
    assert set(TASKS) == set(INFOS)


def test_a_task_survives_export(task):
    assert task.info == INFOS[task.kind]
    again = read_task("t", json.loads(json.dumps(task.exported())))
    assert type(again) is type(task)
    assert again.names == task.names


def test_a_batch_encoded_equals_its_rows_encoded(task):
    labels = examples(task)
    batch = task.targets(labels)
    assert batch.shape == (20, task.width)
    assert batch.dtype == task.target_dtype
    rows = np.stack([task.targets([label])[0] for label in labels])
    assert np.array_equal(batch, rows)
    assert np.array_equal(task.targets(np.stack([np.asarray(x) for x in labels])), batch)


def test_decode_inverts_encode(task):
    labels = np.stack([np.asarray(label) for label in examples(task)])
    decoded = task.decode(task.targets(labels))
    assert decoded.dtype == task.dtype
    assert np.array_equal(decoded, labels.astype(task.dtype))


def test_a_batch_holds_targets_and_gives_labels(task):
    labels = examples(task, 6)
    labels[2] = None
    gts = [{} if label is None else {"t": torch.as_tensor(label)} for label in labels]
    batch = MultiTaskBatch.of([MultiTaskDataSample(gt=gt) for gt in gts], {"t": task})
    for each in (batch, copy.deepcopy(batch)):
        there = each.masks["t"].numpy()
        assert there.tolist() == [label is not None for label in labels]
        known = [label for label in labels if label is not None]
        assert np.array_equal(each.targets["t"].numpy()[there], task.targets(known))
        assert not each.targets["t"][2].any()
        for label, back in zip(labels, each.labels("t"), strict=True):
            assert (back is None) if label is None else np.array_equal(back, label)


def test_the_columns_of_a_file_give_the_task_and_its_labels(task):
    options, cells = COLUMNS[task.kind]
    columns = task.columns_type(task.kind, "t", **options)
    assert read_task("t", columns.info).info == task.info
    for label in examples(task, 5):
        own = [str(cell) for cell in cells(label)]
        assert len(own) == len(columns.columns)
        [read] = columns.read_all([Cells([cell]) for cell in own], "file:{}".format)
        assert np.allclose(read, label)


def test_mirroring_twice_is_the_identity(task):
    for label in examples(task):
        twice = task.mirrored(task.mirrored(label))
        assert np.allclose(twice, label)


def test_only_points_move_with_the_picture(task):
    for label in examples(task):
        moved = task.mapped(label, lambda points: points + 5)
        if len(task.points(label)):
            assert np.allclose(task.points(moved), task.points(label) + 5)
        else:
            assert np.array_equal(moved, label)
        assert np.array_equal(task.with_points(label, task.points(label)), label)


def test_points_of_many_labels_are_those_of_each(task):
    labels = np.stack([np.asarray(label) for label in examples(task)])
    for label, own in zip(labels, task.all_points(labels), strict=True):
        assert np.array_equal(own, task.points(label))
    assert task.all_points(labels[:0]).size == 0


def test_a_prediction_is_written_as_json_and_as_a_row(task):
    output = output_of(task, examples(task, 1)[0])
    prediction = task.read(output, (7, 9))
    record = json.loads(json.dumps(task.as_json(prediction)))
    assert len(task.row(record)) == len(task.columns())
    assert all(column.startswith("t") for column in task.columns())
    texts = [line.text for line in task.summary(prediction)]
    if texts:
        assert max(map(len, texts)) <= max(map(len, task.longest_summary()))


def test_predicted_points_are_shifted_by_the_crops_corner(task):
    output = output_of(task, examples(task, 1)[0])
    here, there = (task.points(task.read(output, corner)) for corner in ((0, 0), (7, 9)))
    assert np.allclose(there - here, np.broadcast_to((7, 9), here.shape), atol=1e-6)


def test_the_label_is_the_likeliest_output(task):
    labels = examples(task, 2)
    spread = np.ones(task.label_shape)
    for label in labels:
        own = task.likelihoods(label, output_of(task, label), spread)
        assert own == pytest.approx([1.0] * len(own))
        error = task.error(label, output_of(task, label), (0, 0, 10, 10))
        assert error is None or error == pytest.approx(0)


def test_case_lines_and_curves_take_what_a_test_set_gives(task):
    labels = examples(task)
    outputs = np.stack([output_of(task, label) for label in labels])
    stacked = np.stack([np.asarray(label) for label in labels])
    boxes = np.tile((0, 0, 10, 10), (len(labels), 1))
    for label, output in zip(labels, outputs, strict=True):
        assert all(line.right is not False for line in task.case_lines(label, output, boxes[0]))
        assert task.case_lines(None, output, boxes[0])
    assert task.curve(stacked, outputs, boxes).plot


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_invalid_labels_are_refused(task, bad):
    labels = examples(task)
    labels[3] = np.full(task.label_shape, bad)
    with pytest.raises(DataError, match="t: expected a label of"):
        task.targets(labels)
    with pytest.raises(DataError, match="t: expected a label of"):
        task.targets([np.zeros((7, 7))])


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (dict(kind="values", names=("a", "a")), "each name once"),
        (dict(kind="class", classes=("a", "b"), flip=(1, 1)), "flip"),
        (dict(kind="landmarks", names=("a", "b"), flip=(0, 7)), "flip"),
        (dict(kind="landmarks", names=("a", "b"), interocular=(0, 2)), "interocular"),
    ],
)
def test_invalid_descriptions_are_refused(info, message):
    with pytest.raises(ConfigError, match=f"task a: .*{message}"):
        read_task("a", info)


def test_missing_names_and_unknown_kinds_are_named():
    with pytest.raises(ConfigError, match="task a: expected names, a list of points, found None"):
        read_task("a", dict(kind="landmarks"))
    with pytest.raises(
        ConfigError, match=r"expected one of the kinds .*found 'colour'.*custom_imports.*--import"
    ):
        read_task("a", dict(kind="colour", names=["x"]))
    with pytest.raises(ConfigError, match="found None"):
        read_task("a", dict(names=["x"]))


@pytest.mark.parametrize(("shape", "names"), [((3,), ["0", "1", "2"]), ((1,), ["a"]), ((), ["a"])])
def test_outputs_of_a_kind_that_is_not_imported_are_named_numbers(shape, names):
    task = NumbersTask("a", dict(kind="colour"), shape)
    assert list(task.read(np.zeros(shape), (0, 0))) == names
    assert task.columns() == [f"a.{name}" for name in names]
