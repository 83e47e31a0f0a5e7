"""The docs' custom kind of task, from a CSV file to a prediction, as a user runs it."""

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from processes import command

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The files of the docs, and pictures whose brightness gives the age group."""
    folder = tmp_path_factory.mktemp("own_kind")
    for file in (ROOT / "docs/age_groups").glob("*.py"):
        shutil.copy(file, folder)
    config = folder / "config.py"
    config.write_text(config.read_text().replace("../../configs", str(ROOT / "configs")))
    (folder / "faces").mkdir()
    rng = np.random.default_rng(0)
    with open(folder / "faces/labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "age_group", "smile"])
        for number in range(160):
            group = number % 8
            picture = np.full((24, 24, 3), 20 + 30 * group, np.uint8) + rng.integers(0, 9)
            cv2.imwrite(str(folder / f"faces/{number}.png"), picture.astype(np.uint8))
            rows.writerow([f"{number}.png", "" if number == 5 else group, number % 3 // 2])
    return folder


def run(home, *arguments):
    return command(*arguments, folder=home)


SMALL = [
    "--cfg-options",
    "model.backbone.model_name=test_resnet",
    "model.backbone.pretrained=False",
    "input_size=32",
    "train_cfg.max_epochs=8",
    "train_cfg.val_interval=8",
    "optim_wrapper.optimizer.lr=6e-3",
    "train_dataloader.batch_size=32",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
]


def test_a_custom_kind_from_a_csv_file_to_a_prediction(home):
    trained = run(home, "train", "config.py", "--work-dir", "work", *SMALL)
    assert trained.returncode == 0, trained.stderr[-2000:]
    given = ["config.py", "work/epoch_8.pth"]
    tested = run(home, "test", *given, "--out", "m.json", "--show-dir", "shown", *SMALL)
    assert tested.returncode == 0, tested.stderr[-2000:]
    error = json.loads((home / "m.json").read_text())["age_group/level_error"]
    assert error < 1.9  # the best constant group is 2 off
    assert (home / "shown/confusion_age_group.png").is_file()
    exported = run(home, "export", *given, "ages.onnx", "--evaluate", "test", *SMALL)
    assert exported.returncode == 0, exported.stderr[-2000:]
    row = re.search(r"age_group/level_error +(\S+) +(\S+)", exported.stdout)
    assert float(row[1]) == pytest.approx(error, abs=0.11)
    assert float(row[2]) == pytest.approx(error, abs=0.11)

    known = run(home, "predict", "ages.onnx", "faces", "--import", "age_task.py", "--csv", "t.csv")
    assert known.returncode == 0, known.stderr[-2000:]
    lines = (home / "predictions/predictions.jsonl").read_text().splitlines()
    first = json.loads(lines[0])["tasks"]["age_group"]
    assert first["level"] in ("0-9", "10-19", "20-29", "30-39")
    assert len(first["reached"]) == 7
    header = (home / "t.csv").read_text().splitlines()[0]
    assert "age_group,age_group>=10-19" in header

    unknown = run(home, "predict", "ages.onnx", "faces/0.png", "--out-dir", "numbers")
    assert unknown.returncode == 0, unknown.stderr[-2000:]
    record = json.loads((home / "numbers/predictions.jsonl").read_text())
    assert list(record["tasks"]["age_group"]) == [str(index) for index in range(7)]
    code = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    (home / "data.py").write_text(f"{code}@dataclass\nclass A:\n    a: int\n1 / 0\n")
    broken = run(home, "predict", "ages.onnx", "faces/0.png", "--import", "data.py")
    assert "data.py: ZeroDivisionError: division by zero (line 6)" in broken.stderr
    missing = run(home, "predict", "ages.onnx", "faces/0.png", "--import", "none.py")
    assert missing.returncode == 2
    assert "none.py" in missing.stderr
