"""A repository whose tools do nothing but write what they were asked."""

import pytest
from reproduction.plan import Column, Row, Scale, Table

TRAIN = """
import json, os, pathlib, sys, time
arguments = sys.argv[1:]
folder = pathlib.Path(arguments[arguments.index("--work-dir") + 1])
options = dict(o.split("=", 1) for o in arguments[arguments.index("--cfg-options") + 1:])
with open("calls.txt", "a") as calls:
    device = os.environ.get("CUDA_VISIBLE_DEVICES")
    print(json.dumps(["train", folder.parent.name, arguments, device]), file=calls)
if "wait_for" in options:  # another process, which runs at the same time
    pathlib.Path(options["here"]).touch()
    until = time.time() + 20
    while not pathlib.Path(options["wait_for"]).exists():
        if time.time() > until:
            sys.exit("nobody came")
        time.sleep(0.02)
(folder / "last_checkpoint").write_text("epoch_1.pth")
if options.get("fails") == "True" and "--resume" not in arguments:
    print("error: the disk is full")
    sys.exit(2)
(folder / "epoch_2.pth").write_text(options["randomness.seed"])
"""
TEST = """
import json, pathlib, sys
arguments = sys.argv[1:]
seed = int(pathlib.Path(arguments[1]).read_text())
with open("calls.txt", "a") as calls:
    print(json.dumps(["test", arguments[0], arguments, None]), file=calls)
out = pathlib.Path(arguments[arguments.index("--out") + 1])
out.write_text(json.dumps({"checkpoint": arguments[1], "a/error": 10.0 + seed, "a/none": None}))
"""

CONFIG = """train_cfg = dict(max_epochs=2)
model = dict(backbone=dict())
custom_imports = dict(imports=[])  # whose modules may read any key
"""


@pytest.fixture
def root(tmp_path):
    """The repository, with a config of two epochs; ``calls.txt`` lists what was run."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/train.py").write_text(TRAIN)
    (tmp_path / "tools/test.py").write_text(TEST)
    (tmp_path / "c.py").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def table():
    """Two rows, one compared with the other."""
    return Table(
        name="t",
        title="T.",
        rows=(
            Row("Plain", "c.py", (), {"a/error": 9.5}),
            Row("More (much)", "c.py", ("x=1",), {"a/error": 9.0}, "Plain"),
        ),
        columns=(Column("a/error", "error (%)", -1), Column("a/none", "none", 1)),
        scales={"small": Scale(("s=1",), ("t=1",), "val", "Small.")},
    )
