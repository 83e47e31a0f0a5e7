"""A pair of CelebA's attributes from training to metrics, on synthetic pictures."""

import json
from pathlib import Path

import pytest
from celeba_files import make_celeba
from tool_runs import loaders, tool

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/celeba/pairs/wearing-hat_bald_trn.py"


def options(root, *more):
    listing = ["model.backbone.model_name=test_resnet", "model.backbone.pretrained=False"]
    listing += ["input_size=32", "train_cfg.max_epochs=1"]
    return ["--cfg-options", *listing, *loaders(batch_size=4, data_root=root), *more]


@pytest.fixture
def faces(tmp_path):
    root = tmp_path / "faces"
    make_celeba(root, size=(45, 54))
    return root


def test_train_and_test_with_balanced_weights_and_a_broken_picture(
    faces, tmp_path, monkeypatch, capfd
):
    broken = faces / "img_align_celeba" / "000004.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    work = tmp_path / "work"
    balanced = [f"model.heads.{task}.pos_weight=balanced" for task in ("att1", "att2")]
    train = ("train", CONFIG, "--work-dir", work)
    assert tool(*train, *options(faces, *balanced), monkeypatch=monkeypatch) == 2
    error = capfd.readouterr().err
    assert "list_eval_partition.txt:4: " in error
    assert "000004.jpg: not a readable picture" in error

    skip = "train_dataloader.dataset.skip_unreadable=True"
    assert tool(*train, *options(faces, *balanced, skip), monkeypatch=monkeypatch) == 0
    said = capfd.readouterr()
    said = said.out + said.err
    assert "left out (skip_unreadable), 1 of 12 so far" in said
    assert "att1.pos_weight: [" in said

    broken = faces / "img_align_celeba" / "000020.jpg"
    broken.write_bytes(b"")
    out, pictures = tmp_path / "metrics.json", tmp_path / "pictures"
    test = ("test", CONFIG, work / "epoch_1.pth", "--work-dir", tmp_path / "test", "--out", out)
    skip = "test_dataloader.dataset.skip_unreadable=True"
    more = ("--show-dir", pictures)
    assert tool(*test, *more, *options(faces, skip), monkeypatch=monkeypatch) == 0
    assert len(list((pictures / "sample").iterdir())) == 5  # of 6
    metrics = json.loads(out.read_text())
    keys = ("error_rate", "mAP", "majority_error_rate", "AP_Wearing_Hat", "error_rate_Bald")
    assert all(0 <= metrics[f"attributes/{key}"] <= 100 for key in keys)
    table = capfd.readouterr()
    assert "Wearing_Hat" in table.out + table.err


def test_missing_pictures_stop_before_training(faces, tmp_path, monkeypatch, capfd):
    (faces / "img_align_celeba" / "000002.jpg").unlink()
    train = ("train", CONFIG, "--work-dir", tmp_path / "work")
    assert tool(*train, *options(faces), monkeypatch=monkeypatch) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert error.startswith("error: list_eval_partition.txt:2: no picture ")
