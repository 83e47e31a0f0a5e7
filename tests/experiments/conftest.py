"""A stub for the training module, which records its arguments and writes metrics."""

import pytest
from tables import TWO_ROWS

from trn_plugin.experiments import plan
from trn_plugin.experiments.results import Results

TRAINING = """
import json, os, pathlib, sys, time
arguments = sys.argv[1:]
folder = pathlib.Path(arguments[arguments.index("--work-dir") + 1])
options = dict(o.split("=", 1) for o in arguments[arguments.index("--cfg-options") + 1:])
with open("calls.txt", "a") as calls:
    device = os.environ.get("CUDA_VISIBLE_DEVICES")
    print(json.dumps([folder.parent.name, arguments, device]), file=calls)
if "wait_for" in options:  # another process, which runs at the same time
    pathlib.Path(options["here"]).touch()
    until = time.time() + 20
    while not pathlib.Path(options["wait_for"]).exists():
        if time.time() > until:
            sys.exit("nobody came")
        time.sleep(0.02)
(folder / "iter_1.pth").touch()
if options.get("fails") == "True" and "--resume" not in arguments:
    print("error: the disk is full")
    sys.exit(2)
metrics = {"a/error": 10.0 + int(options["randomness.seed"]), "a/none": None}
splits = arguments[arguments.index("--splits") + 1:arguments.index("--cfg-options")]
splits = [s for s in splits if not s.startswith("-")]
pathlib.Path(arguments[arguments.index("--out") + 1]).write_text(json.dumps({
    "metrics": {s: metrics for s in splits},
    "box": {s: "a box" for s in splits},
    "labels": {s: options.get("labels", "l1") for s in splits},
    "device": "here",
}))
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with the stub; its ``calls.txt`` lists the calls."""
    (tmp_path / "training.py").write_text(TRAINING)
    monkeypatch.setattr(plan, "TRAINING", ("training.py",))
    return tmp_path


@pytest.fixture
def results(tmp_path):
    """An empty file of results."""
    return Results(tmp_path / "kept" / "runs.csv")


@pytest.fixture
def table():
    """Two rows, one compared with the other."""
    return TWO_ROWS
