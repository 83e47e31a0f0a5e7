"""trn-plugin sweep: one real training, and many with a stub for the training module."""

import csv
from pathlib import Path

import pytest
from tool_runs import loaders

from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.experiments import plan

CONFIG = "trn_plugin::toy/mtl_test-resnet_toy.py"
KEY = "model.backbone.shared_stages"
STUB = """
import json, pathlib, sys
arguments = sys.argv[1:]
options = arguments[arguments.index("--cfg-options") + 1:]
with open("calls.txt", "a") as calls:
    print(*options, file=calls)
last = dict(option.split("=", 1) for option in options)
seed, stages = int(last["randomness.seed"]), int(last["model.backbone.shared_stages"])
if (stages, seed) == (0, 1) and not pathlib.Path("mended").exists():
    print("error: the disk is full")
    sys.exit(2)
metrics = {"a/NME": 5 + stages + seed, "b/accuracy": 80 + 2 * stages - seed}
splits = {split for split in arguments if split in ("val", "test")}
pathlib.Path(arguments[arguments.index("--out") + 1]).write_text(json.dumps({
    key: dict.fromkeys(splits, value)
    for key, value in dict(metrics=metrics, box="a box", labels="l1").items()
}))
"""


def rows_of(path):
    """A table's rows without times."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "latency_ms")} for row in rows]


def test_a_cell_is_trained_and_measured(tmp_path, run_tool):
    sizes = dict(train_size=32, test_size=8)
    make_toy_faces(str(tmp_path / "faces"), **sizes)
    own = dict(data_root=tmp_path / "faces", val_size=8, **sizes)
    options = ["train_cfg.max_epochs=1", "input_size=32", *loaders(["train", "val"], **own)]
    out = tmp_path / "out"
    status, _, error = run_tool(
        "sweep", CONFIG, f"{KEY}=-1", "--out-dir", out, "--cfg-options", *options
    )
    assert status == 0, error
    (row,) = rows_of(out / "sweep.csv")
    assert float(row["landmarks/NME"]) > 0
    assert 0 <= float(row["pose/accuracy"]) <= 100
    assert row["front over parameters"] == "landmarks/NME pose/accuracy"


def test_finished_runs_are_not_repeated_and_jobs_change_nothing(tmp_path, run_tool, monkeypatch):
    (tmp_path / "training.py").write_text(STUB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "TRAINING", ("training.py",))

    def sweep(folder, values, *arguments):
        where = ("--seeds", 0, 1, "--out-dir", folder, "--equal-compute")
        small = ("--cfg-options", "input_size=32", "model.neck=None")
        return run_tool("sweep", CONFIG, f"{KEY}={values}", *where, *arguments, *small)

    assert sweep("serial", "5")[0] == 0
    status, _, error = sweep("serial", "5,0")
    assert status == 2
    assert "4 runs, 2 of them done" in error
    assert "shared_stages 0, 8 epochs, seed 1" in error.splitlines()[-1]
    (tmp_path / "mended").touch()
    status, printed, error = sweep("serial", "5,0")
    assert status == 0
    assert "4 runs, 3 of them done" in error
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert len(calls) == 5
    assert "train_cfg.max_epochs=15" in calls[0]
    assert "| shared_stages 0, 8 epochs | 2 |" in printed, "two networks cost twice"

    assert sweep("parallel", "5,0", "--jobs", 2)[0] == 0
    for name in ("runs.csv", "sweep.csv"):
        serial, parallel = (rows_of(tmp_path / f / name) for f in ("serial", "parallel"))
        assert sorted(map(str, serial)) == sorted(map(str, parallel))
    whole, separate = rows_of("parallel/sweep.csv")
    assert (whole["a/NME"], separate["a/NME"]) == ("10.5", "5.5")
    assert int(whole["parameters"]) < int(separate["parameters"])
    assert whole["front over parameters"] == "a/NME b/accuracy", "cheaper"
    assert separate["front over parameters"] == "a/NME"
    assert (tmp_path / "parallel/sweep.png").read_bytes().startswith(b"\x89PNG")

    status, printed, _ = sweep("parallel", "5", "--report", "--metrics", "b/accuracy")
    assert status == 0
    assert "b/accuracy (greater is better)" in printed
    assert "a/NME" not in printed


def test_another_config_and_another_set_are_noticed(tmp_path, run_tool, monkeypatch):
    (tmp_path / "training.py").write_text(STUB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "TRAINING", ("training.py",))
    drawing = "trn_plugin.cli.sweep.save_sweep"  # slow
    monkeypatch.setattr(drawing, lambda path, *_: Path(path).touch())
    config = tmp_path / "mine.py"
    text = f"_base_ = '{CONFIG}'\nmodel = dict(neck=None)\ninput_size = 32\n"
    config.write_text(text)

    def sweep(*arguments):
        return run_tool("sweep", config, f"{KEY}=0", "--out-dir", "out", *arguments)

    status, printed, _ = sweep()
    assert status == 0
    assert "--out-dir out" in printed
    status, _, error = sweep("--report", "--splits", "val", "test")
    assert status == 2
    assert "with its test set measured" in error
    assert sweep("--splits", "val", "test")[0] == 0
    assert sorted(row["split"] for row in rows_of("out/runs.csv")) == ["test", "val"]
    config.write_text(f"{text}train_cfg = dict(max_epochs=3)\n")
    status, _, error = sweep()
    assert status == 2
    assert "another place with --out-dir" in error
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([KEY], "grid: expected KEY=A,B,C, found 'model.backbone.shared_stages'"),
        ([f"{KEY}=1,1"], "two cells would have the folder"),
        (["randomness.seed=0,1"], "give the seeds with --seeds"),
        ([f"{KEY}=0,9"], "model.backbone.shared_stages: expected 0, 'all', a stage of test_resnet"),
        (["nothing.like=1,2"], "nothing reads 'nothing'"),
        ([f"{KEY}=0", "--seeds", "1", "1"], "--seeds: expected different numbers"),
        ([f"{KEY}=0", "--report"], "no run is finished yet"),
        (["train_cfg.max_epochs=1,2", "--equal-compute"], "which the grid changes too"),
    ],
)
def test_mistakes_are_one_line_errors(tmp_path, run_tool, arguments, message):
    small = ["--cfg-options", "input_size=32"]
    status, _, error = run_tool("sweep", CONFIG, *arguments, "--out-dir", tmp_path, *small)
    assert status == 2
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert message in line
