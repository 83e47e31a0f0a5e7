"""A repository whose training does nothing but write what it was asked."""

import pytest
from reproduction.plan import Column, Row, Scale, Table
from reproduction.results import Results

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
def root(tmp_path):
    """The repository; ``calls.txt`` lists what was run."""
    (tmp_path / "tools/reproduction").mkdir(parents=True)
    (tmp_path / "tools/reproduction/training.py").write_text(TRAINING)
    return tmp_path


@pytest.fixture
def results(tmp_path):
    """The file of results, which is not there yet."""
    return Results(tmp_path / "kept" / "runs.csv")


@pytest.fixture
def table():
    """Two rows, one compared with the other."""
    return Table(
        name="t",
        title="T.",
        rows=(
            Row("Plain", "c.py", paper={"a/error": 9.5}),
            Row("More (much)", "c.py", ("x=1",), "Plain", {"a/error": 9.0}),
        ),
        columns=(Column("a/error", "error (%)", -1), Column("a/none", "none", 1)),
        scales={"small": Scale("Small.", ("s=1", "t=1"))},
    )
