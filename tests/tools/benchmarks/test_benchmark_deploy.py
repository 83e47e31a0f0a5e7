"""The benchmark of PyTorch and exported files, on the smallest model."""

import csv
import math
from pathlib import Path

import pytest

from trn_plugin.deploy import export
from trn_plugin.errors import CheckpointError

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs/toy/trn-output_test-resnet_toy.py"
OPTIONS = ("--cfg-options", "input_size=32")


def test_each_backend_is_measured_or_skipped_with_a_reason(run_tool, tmp_path, monkeypatch):
    def refuse(model):
        raise CheckpointError("no float16 here")

    monkeypatch.setattr(export, "in_float16", refuse)
    few = ("--batch-sizes", 1, 3, "--rounds", 1, "--calls", 1, "--threads", 1)
    backends = ("--backends", "eager", "fp32", "fp16")
    out = tmp_path / "speed.csv"
    status, printed, _ = run_tool(
        "benchmark_deploy", CONFIG, *few, *backends, "--out", out, *OPTIONS
    )
    assert status == 0
    assert "test_resnet at 32 x 32 from uint8 pictures of 32 x 32, cpu, 1 threads" in printed
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["batch_size"]), row["backend"]) for row in rows] == [
        (size, name) for size in (1, 3) for name in ("eager", "fp32", "fp16")
    ]
    for row in rows:
        if row["backend"] == "fp16":
            assert row["skipped"] == "no float16 here"
            continue
        assert row["threads"] == "1"
        milliseconds, size = float(row["milliseconds"]), int(row["batch_size"])
        assert milliseconds > 0
        assert math.isclose(float(row["pictures_per_second"]), 1000 * size / milliseconds)
        assert float(row["differs"]) < 1e-4
    assert printed.count("skipped: no float16 here") == 2


@pytest.mark.slow
def test_onnxruntime_is_faster_than_eager_pytorch_at_a_batch_of_one(run_tool, tmp_path):
    """It is 2.4 times as fast on an idle core; here the core may be shared."""
    out = tmp_path / "speed.csv"
    few = ("--batch-sizes", 1, "--backends", "eager", "fp32", "--threads", 1)
    config = ROOT / "configs/mtfl/mtl_resnet18_mtfl.py"
    options = ("--cfg-options", "model.backbone.pretrained=False")
    status, _, errors = run_tool("benchmark_deploy", config, *few, "--out", out, *options)
    assert status == 0, errors
    with out.open(newline="") as file:
        (row,) = (row for row in csv.DictReader(file) if row["backend"] == "fp32")
    assert row["backbone"] == "resnet18"
    assert row["input"] == "112 x 112"
    assert float(row["over_eager"]) > 1.3
