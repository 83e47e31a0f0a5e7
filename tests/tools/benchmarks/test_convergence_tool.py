"""convergence_study.py on an untrained model of toy faces, and its bad arguments."""

import csv
import re
from functools import partial
from pathlib import Path

import pytest

from trn_plugin import cli
from trn_plugin.checkpoints import save_checkpoint_file
from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.registry import MODELS

ROOT = Path(__file__).parents[3]
CONFIG = str(ROOT / "configs/toy/stl_test-resnet_toy.py")


@pytest.fixture
def tool(run_tool):
    return partial(run_tool, "convergence_study")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Config, checkpoint and options of 50 training faces of 32 pixels."""
    folder = tmp_path_factory.mktemp("convergence")
    sizes = dict(train_size=60, test_size=4)
    make_toy_faces(str(folder / "faces"), **sizes)
    config = cli.load_config(CONFIG, {"model.neck": None, "input_size": 32})
    state = MODELS.build(config.model).state_dict()
    save_checkpoint_file({"meta": {}, "state_dict": state}, str(folder / "m.pth"))
    options = ["model.neck=None", "input_size=32"]
    for part in ("train", "val"):
        loader = f"{part}_dataloader"
        options += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
        options += [f"{loader}.dataset.data_root={folder / 'faces'}"]
        options += [f"{loader}.dataset.{k}={v}" for k, v in dict(sizes, val_size=10).items()]
    return [CONFIG, folder / "m.pth", "--cfg-options", *options]


def test_online_and_offline_tau(tool, tmp_path, arguments):
    more = ("--batch-sizes", 5, "--momenta", 0.5, 0.95, "--iterations", 300, "--out-dir", tmp_path)
    status, printed, error = tool(*arguments, *more)
    assert status == 0, error
    assert "hidden features: left out, undefined offline: 50 samples for 96 + 96" in printed
    with open(tmp_path / "convergence.csv", newline="") as file:
        rows = {(row["level"], row["m"]): row for row in csv.DictReader(file)}
    assert set(rows) == {(level, m) for level in ("gt", "output") for m in ("0.5", "0.95")}
    few, enough = rows["gt", "0.5"], rows["gt", "0.95"]
    assert (few["samples"], few["needed"]) == ("15", "75")
    assert few["verdict"] == "impossible: 15 effective samples < 75"
    assert few["arrived"] == ""
    assert (enough["samples"], enough["iterations"]) == ("195", "300")
    assert "impossible" not in enough["verdict"]
    assert float(enough["online"]) == pytest.approx(float(enough["offline"]), abs=0.1)
    assert "impossible: 15 effective samples < 75" in printed
    assert (tmp_path / "convergence.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "pose", "age"], r"expected two of landmarks, pose, found pose, age"),
        (["--tasks", "pose", "pose"], r"expected two of landmarks, pose, found pose, pose"),
        (["--batch-sizes", "51"], r"--batch-sizes: expected at most 50, .* found 51"),
    ],
)
def test_bad_arguments_are_one_line(tool, tmp_path, arguments, more, message):
    status, _, error = tool(*arguments, "--out-dir", tmp_path, *more)
    assert status == 2
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert re.search(message, line), line
