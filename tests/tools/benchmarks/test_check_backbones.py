"""tools/benchmarks/check_backbones.py: its table, and which rows it checks again."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ANSWERED = dict(
    file="byobnet",
    model="test_resnet",
    params="1",
    img_size="64",
    boundaries="4",
    eval="0.0e+00",
    train="0.0e+00",
    gradient="0.0e+00",
    outcome="ok",
    onnx="0.0e+00",
    onnx_outcome="ok",
    seconds="1",
)


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check(*arguments):
    """Run it in a separate process, since it starts others that import it by name."""
    command = [sys.executable, ROOT / "tools/benchmarks/check_backbones.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_checked_models_are_not_checked_again(run_tool, tmp_path):
    out = tmp_path / "b.csv"
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ANSWERED)
        writer.writeheader()
        writer.writerow(ANSWERED)
    status, printed, _ = run_tool("check_backbones", "test_resnet", "--out", out)
    assert (status, "[1/" in printed) == (0, False)
    assert "1 agree at every boundary" in printed


@pytest.mark.slow
def test_unchecked_models_are_checked(tmp_path):
    out = tmp_path / "b.csv"
    assert "[1/1] test_resnet" in check("test_resnet", "--out", out)
    (row,) = rows(out)
    assert (row["outcome"], row["onnx_outcome"], row["boundaries"]) == ("ok", "ok", "4")
    assert max(float(row[mode]) for mode in ("eval", "train", "gradient")) < 1e-5


@pytest.mark.slow
def test_exceeded_limits_are_reported(tmp_path):
    out = tmp_path / "b.csv"
    check("test_resnet", "--time-limit", 0.01, "--out", out)
    assert rows(out)[0]["outcome"].startswith("not done after")


def test_an_unknown_name_is_an_error(run_tool, tmp_path):
    status, _, error = run_tool("check_backbones", "nosuchnet*", "--out", tmp_path / "b.csv")
    assert (status, error) == (2, "error: timm has no model 'nosuchnet*'\n")
