"""tools/task_similarity.py on label files and on a checkpoint, and its bad arguments."""

import csv
import itertools
import json
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tool_runs import loaders

from trn_plugin import cli
from trn_plugin.checkpoints import save_checkpoint_file
from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.registry import MODELS
from trn_plugin.relation import chance_similarity, task_similarity

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/toy/stl_test-resnet_toy.py")
SIZES = dict(train_size=70, val_size=30, test_size=10)
CELEBA = """4
Bald Male Smiling
1.jpg -1  1 1
2.jpg -1 -1 1
3.jpg  1  1 -1
4.jpg -1 -1 -1
"""
# the paper's Figure 3 prints .031 .451 .543 .116 .301
PAPER = {
    ("Wearing_Hat", "Bald"): 0.03063,
    ("Mustache", "Goatee"): 0.45054,
    ("Sideburns", "No_Beard"): 0.54306,
    ("Sideburns", "Arched_Eyebrows"): 0.11600,
    ("Male", "Bags_Under_Eyes"): 0.30108,
}


@pytest.fixture
def tool(run_tool):
    return partial(run_tool, "task_similarity")


def measured(folder):
    rows = json.loads((folder / "similarity.json").read_text())
    with open(folder / "similarity.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == lines
    return {(row["a"], row["b"]): row for row in rows}


def test_columns_of_a_csv_file(tool, tmp_path):
    rng = np.random.default_rng(0)
    age = rng.normal(size=80)
    weight = age + rng.normal(size=80)
    kind = np.where(age + rng.normal(size=80) > 0, "cat", "dog")
    path = tmp_path / "labels.csv"
    lines = [
        f"{i}.jpg,{a},{w},{k}" for i, (a, w, k) in enumerate(zip(age, weight, kind, strict=True))
    ]
    path.write_text("\n".join(["file,age,weight,kind", *lines]))
    out = tmp_path / "out"
    status, printed, _ = tool(
        *("--csv", path, "--columns", "age,weight", "--classes", "kind", "--out-dir", out),
        *("--order", "clustered"),
    )
    assert status == 0
    rows = measured(out)
    assert set(rows) == set(itertools.combinations(("age", "weight", "kind"), 2))
    for pair, expected in {
        ("age", "weight"): abs(np.corrcoef(age, weight)[0, 1]),
        ("weight", "kind"): abs(np.corrcoef(weight, kind == "cat")[0, 1]),
    }.items():
        assert rows[pair]["tau_gt"] == pytest.approx(expected, abs=1e-6)
        assert rows[pair]["N"] == 80
    assert rows["age", "weight"]["chance_gt"] == round(chance_similarity(80, 1, 1), 6)
    assert "80 samples, 3 pairs" in printed
    assert (out / "similarity.png").stat().st_size > 0


def test_most_and_least_related_pairs_are_listed(tool, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "labels.csv"
    rows = rng.normal(size=(50, 1)) + rng.normal(size=(50, 7)) * [0.1, 0.2, 1, 2, 3, 4, 9]
    path.write_text("\n".join(["a,b,c,d,e,f,g", *(",".join(map(str, row)) for row in rows)]))
    status, printed, _ = tool("--csv", path)
    lines = printed.splitlines()
    assert status == 0
    assert len(lines) == 2 + 10 + 1 + 10, "21 pairs"
    assert lines[2].startswith("a - b")
    assert lines[12] == "..."
    taus = [float(line.split()[4]) for line in lines[2:] if line != "..."]
    assert taus == sorted(taus, reverse=True)


def test_attributes_of_celeba_and_groups_of_them(tool, tmp_path):
    (tmp_path / "list_attr_celeba.txt").write_text(CELEBA)
    assert tool("--celeba", tmp_path, "--out-dir", tmp_path / "a")[0] == 0
    rows = measured(tmp_path / "a")
    assert rows["Bald", "Male"]["tau_gt"] == pytest.approx(1 / np.sqrt(3), abs=1e-6)
    assert rows["Male", "Smiling"]["tau_gt"] == 0
    status, _, _ = tool(
        *("--celeba", tmp_path / "list_attr_celeba.txt", "--out-dir", tmp_path / "b"),
        *("--groups", "hair=Bald", "face=Male,Smiling"),
    )
    assert status == 0
    row = measured(tmp_path / "b")["hair", "face"]
    assert row["tau_gt"] is None  # 4 - 1 <= 1 + 2
    assert row["note_gt"] == "undefined: N - 1 <= d1 + d2"


@pytest.mark.real_data
def test_the_papers_values_on_celeba(tool, tmp_path):
    root = os.environ.get("CELEBA_ROOT")
    if not root:
        pytest.skip("CELEBA_ROOT is not set")
    status, printed, _ = tool("--celeba", root, "--out-dir", tmp_path)
    assert status == 0
    assert "202599 samples, 780 pairs" in printed
    rows = measured(tmp_path)
    for (a, b), expected in PAPER.items():
        row = rows.get((a, b)) or rows[b, a]
        assert row["tau_gt"] == pytest.approx(expected, abs=5e-5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained STL model of three tasks, and the toy faces that it is measured on."""
    folder = tmp_path_factory.mktemp("similarity")
    make_toy_faces(str(folder / "faces"), train_size=70, test_size=10)
    config = cli.load_config(CONFIG, dict(HEADS))
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    for head in model.heads.values():  # predictions that vary by more than rounding
        torch.nn.init.normal_(head.fc.weight)
    save_checkpoint_file({"meta": {}, "state_dict": model.state_dict()}, str(folder / "m.pth"))
    return dict(model=model.eval(), path=folder / "m.pth", faces=folder / "faces")


HEADS = {
    "model.heads.smile": dict(type="AttributeHead", num_attributes=1),
    "model.neck": None,
    "input_size": 32,
}


def options(faces):
    listing = ["model.heads.smile.type=AttributeHead", "model.heads.smile.num_attributes=1"]
    listing += ["model.neck=None", "input_size=32"]
    listing += loaders(data_root=faces, tasks="('landmarks','pose','smile')", **SIZES)
    return ["--cfg-options", *listing]


def test_features_of_a_checkpoint_beside_the_labels(tool, tmp_path, checkpoint):
    status, printed, error = tool(
        *(CONFIG, "--checkpoint", checkpoint["path"], "--split", "train", "--out-dir", tmp_path),
        *options(checkpoint["faces"]),
    )
    assert status == 0, error
    rows = measured(tmp_path)
    assert set(rows) == set(itertools.combinations(("landmarks", "pose", "smile"), 2))
    row = rows["landmarks", "pose"]
    assert row["tau_hidden"] is None  # 40 - 1 <= 96 + 96
    assert row["note_hidden"] == "undefined: N - 1 <= d1 + d2"
    assert row["d1_hidden"] == row["d2_hidden"] == checkpoint["model"].backbone.num_features
    assert 0 < row["tau_gt"] <= 1
    # with 40 samples, rounding errors of an untrained net's probabilities add a direction
    assert row["tau_output"] == pytest.approx(self_measured(checkpoint), abs=2e-3)
    assert row["chance_output"] == round(chance_similarity(40, 10, 5), 6)
    assert "hidden: undefined: N - 1 <= d1 + d2" in printed
    for name in ("similarity", "similarity_output", "similarity_hidden"):
        assert (tmp_path / f"{name}.png").stat().st_size > 0


def self_measured(checkpoint):
    """tau of the outputs on the training set with validation crops, one picture at a time."""
    from trn_plugin.registry import DATASETS

    config = cli.load_config(CONFIG, dict(HEADS))
    settings = dict(
        config.train_dataloader.dataset, pipeline=config.val_dataloader.dataset.pipeline
    )
    dataset = DATASETS.build(settings | dict(data_root=str(checkpoint["faces"]), **SIZES))
    outputs = {"landmarks": [], "pose": []}
    for index in range(len(dataset)):
        item = dataset[index]
        batch = dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]])
        with torch.no_grad():
            (sample,) = checkpoint["model"].test_step(batch)
        for task, rows in outputs.items():
            rows.append(sample.output[task])
    return float(task_similarity(*(torch.stack(rows) for rows in outputs.values())))


def test_relations_and_groups_of_a_checkpoint(tool, tmp_path, checkpoint):
    arguments = (CONFIG, "--checkpoint", checkpoint["path"], *("--split", "val"))
    more = options(checkpoint["faces"])
    status, _, error = tool(
        *arguments, "--groups", "a=smile", "b=landmarks,pose", "--out-dir", tmp_path / "a", *more
    )
    assert status == 0, error
    (row,) = measured(tmp_path / "a").values()
    assert (row["a"], row["b"]) == ("smile", "landmarks+pose")
    assert (row["N"], row["d1_output"], row["d2_output"]) == (30, 1, 15)
    every = [option for option in more if not option.startswith("model.neck")]
    every.append("model.neck.relations=all")
    status, _, error = tool(*arguments, "--out-dir", tmp_path / "c", *every)
    assert status == 0, error
    assert len(measured(tmp_path / "c")) == 3
    status, _, _ = tool(*arguments, "--tasks", "pose", "smile", "--out-dir", tmp_path / "b", *more)
    assert status == 0
    assert set(measured(tmp_path / "b")) == {("pose", "smile")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"expected one of CONFIG, --celeba FILE and --csv FILE, found 0"),
        ([CONFIG, "--csv", "x.csv"], r"expected one of .* found 2"),
        (["--csv", "absent.csv"], r"absent\.csv: cannot be read"),
        (["--celeba", "absent.txt"], r"absent\.txt: cannot be read"),
        (["--csv", "{csv}", "--split", "val"], r"--split: needs a config"),
        (["--csv", "{csv}", "--checkpoint", "x"], r"--checkpoint: needs a config"),
        (["--csv", "{csv}", "--cfg-options", "a=1"], r"--cfg-options: needs a config"),
        ([CONFIG, "--columns", "a"], r"--columns: needs --csv or --celeba"),
        (["--celeba", "{celeba}", "--classes", "Bald"], r"--classes: needs --csv"),
        (["--celeba", "{celeba}", "--columns", "Hat"], r"no 'Hat'; expected one of Bald, Male"),
        (["--csv", "{csv}", "--columns", "a"], r"at least two tasks to relate, found 1"),
        (["--csv", "{csv}", "--groups", "x=a", "y=c"], r"--groups: no 'c' among a, b"),
        (["--csv", "{csv}", "--groups", "x=a", "y=a"], r"--groups: 'a' is named twice, in x, y"),
        (["--csv", "{csv}", "--groups", "x=a,b"], r"--groups: expected at least two groups"),
        (["--csv", "{csv}", "--groups", "xa", "y=b"], r"expected NAME=A,B, .* found 'xa'"),
        ([CONFIG, "--all-pairs"], r"--all-pairs: needs --checkpoint"),
        ([CONFIG, "--checkpoint", "absent.pth"], r"absent\.pth: .*No such file"),
        (["absent.py"], r"absent\.py: no such config file"),
    ],
)
def test_bad_arguments_are_one_line_errors(tool, tmp_path, arguments, message):
    files = dict(csv=tmp_path / "labels.csv", celeba=tmp_path / "celeba.txt")
    files["csv"].write_text("a,b\n1,2\n3,5\n")
    files["celeba"].write_text(CELEBA)
    status, _, error = tool(*(argument.format(**files) for argument in arguments))
    assert status == 2
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert re.search(message, line), line


def test_labels_of_wrapped_data_sets_and_their_point_coordinates(tool, tmp_path):
    faces = tmp_path / "faces"
    make_toy_faces(str(faces), train_size=70, test_size=10)
    own = dict(data_root=str(faces), **SIZES)
    config = cli.load_config(CONFIG)
    one = config.train_dataloader.dataset.to_dict() | own
    config.train_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=one)
    wrapped = tmp_path / "wrapped.py"
    config.dump(wrapped)
    plain = ["--cfg-options", *(f"train_dataloader.dataset.{k}={v}" for k, v in own.items())]
    found = {}
    for name, config, more in (
        ("plain", CONFIG, plain),
        ("twice", wrapped, []),
        ("shape", CONFIG, ["--points", "shape", *plain]),
        ("file", CONFIG, ["--points", "file", *plain]),
    ):
        status, _, error = tool(config, "--out-dir", tmp_path / name, *more)
        assert status == 0, error
        found[name] = measured(tmp_path / name)["landmarks", "pose"]
    assert (found["plain"]["N"], found["twice"]["N"]) == (40, 80)
    assert found["twice"]["tau_gt"] == pytest.approx(found["plain"]["tau_gt"], abs=1e-4)
    words = {name: row["points"] for name, row in found.items()}
    assert words == dict(plain="crop", twice="crop", shape="shape", file="file")


def test_labels_of_a_config_need_no_pictures(tool, tmp_path):
    (tmp_path / "list_attr_celeba.txt").write_text(CELEBA)
    (tmp_path / "list_eval_partition.txt").write_text("1.jpg 0\n2.jpg 0\n3.jpg 0\n4.jpg 1\n")
    config = ROOT / "configs/celeba/mtl_resnet18_celeba.py"
    out = tmp_path / "out"
    arguments = [config, "--out-dir", out, "--tasks", "attributes", "--by-column", "--cfg-options"]
    own = dict(data_root=tmp_path, attributes="('Bald','Male','Smiling')")
    arguments += loaders(["train"], **own)
    status, _, error = tool(*arguments)
    assert status == 0, error
    row = measured(out)["attributes/Bald", "attributes/Smiling"]
    assert (row["tau_gt"], row["N"]) == (None, 3)  # 3 - 1 <= 1 + 1
