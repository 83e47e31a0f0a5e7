import json
from pathlib import Path

import pytest
from celeba_files import make_celeba
from tool_runs import tool

from trn_plugin.datasets.toy_faces import make_toy_faces

ROOT = Path(__file__).parents[3]


def benchmark(*arguments, monkeypatch):
    return tool("benchmark_pipeline", *arguments, monkeypatch=monkeypatch)


@pytest.fixture
def celeba(tmp_path):
    make_celeba(tmp_path / "faces")
    return tmp_path / "faces"


def test_celeba_compared_with_torchvision(celeba, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rates.json"
    options = [
        "--cfg-options",
        f"train_dataloader.dataset.data_root={celeba}",
        "train_dataloader.batch_size=4",
        "input_size=32",
    ]
    few = ["--pictures", 8, "--rounds", 1, "--workers", 1]
    config = ROOT / "configs/celeba/mtl_resnet18_celeba.py"
    assert benchmark(config, *few, "--out", out, *options, monkeypatch=monkeypatch) == 0
    rates = json.loads(out.read_text())
    assert set(rates) == {
        "this config",
        "this config, from the cache",
        "torchvision, on PIL pictures",
        "torchvision, on tensors",
        "decoding alone",
    }
    assert min(rates.values()) > 0
    said = capsys.readouterr().out
    assert "8 pictures at 32 x 32" in said
    assert "data loader, 1 workers" in said


def test_mtfl_compared_with_torchvision(tmp_path, monkeypatch):
    make_toy_faces(str(tmp_path / "faces"), train_size=12, test_size=2)
    options = [
        "--cfg-options",
        f"train_dataloader.dataset.data_root={tmp_path / 'faces'}",
        "train_dataloader.dataset.val_size=2",
    ]
    for name in ("mtl", "mtl-fast"):
        config = ROOT / f"configs/mtfl/{name}_resnet18_mtfl.py"
        few = ["--pictures", 4, "--rounds", 1]
        assert benchmark(config, *few, *options, monkeypatch=monkeypatch) == 0


def test_mistakes_are_named(celeba, tmp_path, monkeypatch, capsys):
    config = tmp_path / "config.py"
    config.write_text(
        f"_base_ = {str(ROOT / 'configs/celeba/mtl_resnet18_celeba.py')!r}\n"
        "train_dataloader = dict(dataset=dict(pipeline=[dict(type='FaceBox', mode='whole'), "
        "dict(type='LoadCrop'), dict(type='Albumentations', transforms=[dict(type='Posterize')]), "
        "dict(type='PackMultiTaskInputs')]))\n"
    )
    root = f"train_dataloader.dataset.data_root={celeba}"
    assert benchmark(config, "--cfg-options", root, monkeypatch=monkeypatch) == 2
    assert "Posterize has no counterpart" in capsys.readouterr().err
    assert benchmark(config, "--pictures", 0, monkeypatch=monkeypatch) == 2
