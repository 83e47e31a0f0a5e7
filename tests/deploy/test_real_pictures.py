"""Outputs and metrics of exported files agree with PyTorch on photographs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trn_plugin import cli
from trn_plugin.deploy import DeployModel, TaskPredictor, export_onnx
from trn_plugin.deploy.checkpoint import load_for_export
from trn_plugin.deploy.evaluate import crop_loader, measure, some_crops

pytestmark = [pytest.mark.slow, pytest.mark.real_data, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/mtfl/mtl-fast_resnet18_mtfl.py")
SIZE = 48
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def options():
    root = os.environ.get("MTFL_ROOT")
    if not root:
        pytest.skip("MTFL_ROOT is not set")
    chosen = {
        "input_size": SIZE,
        "model.backbone.model_name": "test_resnet",
        "model.backbone.pretrained": False,
        "train_dataloader.dataset.indices": 2048,
        "train_dataloader.batch_size": 64,
        "train_cfg.max_epochs": 3,
        "optim_wrapper.optimizer.lr": 6e-3,
        "val_dataloader.dataset.indices": list(range(0, 1000, 5)),
        "val_dataloader.dataset.data_root": root,
        "train_dataloader.dataset.data_root": root,
    }
    for part in ("train", "val"):
        chosen[f"{part}_dataloader.num_workers"] = 0
        chosen[f"{part}_dataloader.persistent_workers"] = False
    return chosen | {f"test_{part}": None for part in ("dataloader", "cfg", "evaluator")}


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    """A network that has learned something: its config, model and metadata."""
    work = tmp_path_factory.mktemp("trained")
    given = [f"{key}={value}".replace(" ", "") for key, value in options.items()]
    tool = [sys.executable, str(ROOT / "tools/train.py"), CONFIG, "--work-dir", str(work)]
    done = subprocess.run([*tool, "--cfg-options", *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = cli.load_config(CONFIG, options)
    return config, *load_for_export(config, str(work / "epoch_3.pth"))


@pytest.fixture(scope="module")
def crops(trained):
    found = some_crops(crop_loader(trained[0], "val"), 200)
    assert len({crop.tobytes() for crop in found}) == 200
    return found


@pytest.fixture(scope="module")
def files(trained, crops, tmp_path_factory):
    """An exported file of each precision, and how much its outputs differ from PyTorch's."""
    _, model, size, metadata = trained
    folder = tmp_path_factory.mktemp("exported")
    made = {}
    for precision in PRECISIONS:
        path = str(folder / f"{precision}.onnx")
        settings = dict(check_images=crops, precision=precision)
        made[precision] = path, export_onnx(model, path, size, metadata, **settings)
    return made


def test_two_hundred_photographs(trained, crops, files):
    path, differences = files["fp32"]
    assert set(differences) == {"landmarks", "pose"}
    assert max(differences.values()) < 1e-4
    for precision, allowed in (("fp16", 0.02), ("int8", 0.2)):
        assert 1e-6 < max(files[precision][1].values()) < allowed
    # constant outputs would agree on any pictures
    found = TaskPredictor(path).run_each(crops)
    sides = np.array([crop.shape[1::-1] for crop in crops])[:, None]
    points = np.stack([outputs["landmarks"] for outputs in found]) / sides
    assert points.std(axis=0).mean() > 0.01
    assert np.stack([outputs["pose"] for outputs in found]).std(axis=0).max() > 0.05


def test_metrics_of_a_checkpoint_and_its_files(trained, files):
    config, model, size, _ = trained
    loader = crop_loader(config, "val")
    paths = [files[precision][0] for precision in PRECISIONS]
    deployed = DeployModel(model, size).eval()
    (before, fp32, fp16, int8), boxes = measure(config, "val", loader, deployed, paths)
    assert boxes.total() == 200
    assert before["landmarks/NME"] < before["landmarks/NME_mean_shape"]
    assert fp32 == pytest.approx(before, abs=0.05, nan_ok=True)
    for scores in (fp16, int8):
        assert scores["landmarks/NME"] == pytest.approx(before["landmarks/NME"], abs=1)
        assert scores["pose/accuracy"] == pytest.approx(before["pose/accuracy"], abs=5)
