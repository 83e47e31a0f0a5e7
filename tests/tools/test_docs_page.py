"""docs/guides/landmarks.md, followed word for word on toy faces."""

import csv
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trn_plugin.datasets.mtfl_format import POSES, read_rows

POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
WORKERS = ("num_workers=0", "persistent_workers=False")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guides/landmarks.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}[^\n]*\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that looks like the root of a clone, with the page's config in it."""
    for name in ("configs", "docs", "tools"):
        os.symlink(ROOT / name, tmp_path / name)
    config, *_ = blocks("python")
    (tmp_path / "my_faces.py").write_text(config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSTARTUP", raising=False)
    return tmp_path


def check(work, epochs):
    metrics = json.loads((work / "metrics.json").read_text())
    for key in ("landmarks/NME", "pose/balanced_accuracy", "smile/mAP"):
        assert key in metrics
    for key in ("landmarks-pose", "landmarks-smile", "pose-smile"):
        assert f"relation/tau_output/{key}" in metrics
    exported = json.loads((work / "metrics_onnx.json").read_text())
    for key in ("landmarks/NME", "pose/accuracy", "smile/mAP", "relation/tau_gt/pose-smile"):
        assert exported[key] == pytest.approx(metrics[key], abs=0.05)
    lines = (work / "predictions" / "predictions.jsonl").read_text().splitlines()
    (found,) = (json.loads(line)["tasks"] for line in lines)
    assert set(found["landmarks"]) == set(POINTS)
    assert set(found["pose"]["probabilities"]) == set(POSES)
    assert list(found["smile"]) == ["smiling"]
    assert (work / f"epoch_{epochs}.pth").exists()
    for name in ("similarity.png", "similarity/similarity.png", "pictures/worst.png"):
        assert (work / name).stat().st_size > 0
    # images that the visualizer's backends received
    shown = {path.name.rsplit("_", 1)[0] for path in work.glob("*/vis_data/vis_image/*.png")}
    assert shown == {"similarity", *(path.stem for path in (work / "pictures").glob("*.png"))}
    return metrics


def practise(count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["practice_set.py", "data/my_faces", str(count)])
        runpy.run_path("docs/practice_set.py", run_name="__main__")


def test_every_command_runs(clone, run_tool):
    """Run in this process, with few pictures and one epoch."""
    small = ["--cfg-options", "train_cfg.max_epochs=1", "input_size=32"]
    for part in ("train", "val", "test"):
        small += [f"{part}_dataloader.{option}" for option in ("batch_size=8", *WORKERS)]
    for command in "".join(blocks("bash")).replace("epoch_30", "epoch_1").splitlines():
        python, script, *arguments = shlex.split(command)
        assert python == "python"
        if script == "docs/practice_set.py":
            practise(60)
            continue
        more = [] if script == "tools/predict.py" else small
        status, _, errors = run_tool(Path(script).stem, *arguments, *more)
        assert status == 0, f"{command}: {errors}"
    check(clone / "work_dirs" / "my_faces", 1)


def test_a_task_that_cannot_be_learned_is_reported_before_training(clone, run_tool):
    config = clone / "my_faces.py"
    head = '        pose=dict(type="ClassificationHead", num_classes=5),\n'
    assert head in config.read_text()
    config.write_text(config.read_text().replace(head, ""))
    practise(12)
    workers = [f"{part}_dataloader.{option}" for part in ("train", "val") for option in WORKERS]
    small = ["train_dataloader.batch_size=4", *workers]
    status, _, errors = run_tool("train", "my_faces.py", "--cfg-options", *small)
    assert status == 2
    assert "Accuracy: expected one of the model's tasks (landmarks, smile), found 'pose'" in errors
    assert not list(clone.rglob("*.pth"))


def cut_mtfl(root, folder, count=600):
    """Rows of MTFL as the page's CSV file, with some labels missing."""
    (folder / "faces").mkdir(parents=True)
    rows = read_rows(str(root / "training.txt"))
    with open(folder / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        columns = [f"{point}_{axis}" for point in POINTS for axis in "xy"]
        table.writerow(["image", *columns, "pose", "smiling", "split"])
        for k, index in enumerate(np.random.default_rng(0).permutation(len(rows))[:count]):
            row, name = rows[index], f"faces/{k + 1:05d}.jpg"
            shutil.copy(root / row.path, folder / name)
            points = [value for point in zip(row.xs, row.ys, strict=True) for value in point]
            smiling = "" if k % 20 == 7 else int(row.smile == 1)
            split = {8: "val", 9: "test"}.get(k % 10, "train")
            table.writerow([name, *points, POSES[row.pose - 1], smiling, split])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("data", ["toy", pytest.param("mtfl", marks=pytest.mark.real_data)])
def test_word_for_word(clone, data):
    practice, *rest = blocks("bash")
    if data == "mtfl":
        root = Path(os.environ.get("MTFL_ROOT", ROOT.parent / "shared" / "data" / "MTFL"))
        if not (root / "training.txt").is_file():
            pytest.skip("no MTFL data: set MTFL_ROOT")
        cut_mtfl(root, clone / "data" / "my_faces")
    for block in rest if data == "mtfl" else [practice, *rest]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        subprocess.run(["bash", "-euo", "pipefail", "-c", block], check=True, env=environment)
    metrics = check(clone / "work_dirs" / "my_faces", 30)
    assert metrics["landmarks/NME"] < 0.8 * metrics["landmarks/NME_mean_shape"]
    assert metrics["pose/accuracy"] > 50
    assert metrics["smile/mAP"] > metrics["smile/prior_mAP"] + 10
