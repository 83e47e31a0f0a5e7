"""The main job on a few toy faces: train, resume, test, export, predict."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tool_runs import loaders
from toy_job import CONFIG, MTFL_CONFIG, SIZES, options

from trn_plugin import TaskPredictor, cli
from trn_plugin.cli.config import use_mixed_precision
from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.engine.inference import load_model
from trn_plugin.errors import DataError
from trn_plugin.geometry import box_to_image, read_image
from trn_plugin.registry import DATASETS


@pytest.fixture
def score(job, run_tool, tmp_path):
    """A function that measures a checkpoint or file: metrics, metrics left out, output."""

    def measure(model, *arguments):
        out = tmp_path / "m.json"
        arguments = ("--out", out, "--work-dir", tmp_path / "work", *arguments)
        status, printed, error = run_tool("test", CONFIG, model, *arguments, *options(job["faces"]))
        assert status == 0, error
        record = json.loads(out.read_text())
        metrics = {key: value for key, value in record.items() if "/" in key}
        return metrics, record.get("not_measured"), printed

    return measure


def test_metrics_of_a_checkpoint(job, score, tmp_path):
    metrics, _, _ = score(job["checkpoint"], "--show-dir", tmp_path / "pictures")
    for key in ("landmarks/NME", "pose/accuracy", "pose/balanced_accuracy"):
        assert 0 <= metrics[key] < 1000
    assert metrics["relation/N/landmarks-pose"] == SIZES["test_size"]
    assert metrics["relation/tau_hidden/landmarks-pose"] is None  # 24 samples, 192 features
    assert 0 < metrics["relation/tau_gt/landmarks-pose"] <= 1
    assert (tmp_path / "pictures/worst.png").exists()


def test_measuring_does_not_overwrite_the_training_config(job, run_tool):
    work = job["checkpoint"].parent
    trained = work / Path(CONFIG).name
    before = trained.read_text()
    arguments = (CONFIG, job["checkpoint"], "--work-dir", work, *options(job["faces"], 7))
    assert run_tool("test", *arguments)[0] == 0
    assert trained.read_text() == before
    assert "max_epochs=2" in before
    assert len(list(work.glob("*/vis_data/config.py"))) >= 2


def test_an_exported_file_stores_the_validation_metrics(job, score):
    metadata = TaskPredictor(job["exported"]).metadata
    assert "epoch 2" in metadata["metrics_of"]
    assert metadata["metrics_of"].endswith("vis_data/scalars.json")
    again, _, _ = score(job["checkpoint"], "--split", "val")
    known = {key: value for key, value in again.items() if value is not None}
    assert metadata["metrics"] == pytest.approx(known)


def test_a_checkpoint_and_its_exported_file_predict_the_same(job):
    pictures = job["faces"] / "toy_test"
    config = job["checkpoint"].parent / Path(CONFIG).name
    network = TaskPredictor(config, checkpoint=job["checkpoint"])
    found = network.predict(pictures)
    expected = TaskPredictor(job["exported"]).predict(pictures)
    assert len(found) == len(expected) == SIZES["test_size"]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one["landmarks"], other["landmarks"], atol=0.01)
        assert one["pose"]["label"] == other["pose"]["label"]
        shares = other["pose"]["probabilities"]
        assert one["pose"]["probabilities"] == pytest.approx(shares, abs=1e-4)
    path = str(sorted(pictures.glob("*.jpg"))[0])
    boxes = [(10, 8, 70, 72)]
    (one,), (other,) = (network.predict(p, boxes) for p in (path, read_image(path)))
    np.testing.assert_array_equal(one["landmarks"], other["landmarks"])
    with pytest.raises(DataError, match=r"expected one box per picture, found 1 for"):
        network.predict([pictures], boxes)


def test_an_exported_file_has_the_metrics_of_its_checkpoint(job, score, tmp_path):
    checkpoint, _, _ = score(job["checkpoint"])
    exported, left_out, printed = score(job["exported"], "--show-dir", tmp_path / "pictures")
    assert "not measured: TaskSimilarity: tau_hidden, tau_output" in printed
    assert "not drawn: similarity.png" in printed
    assert "export --features" in left_out[0]
    assert (tmp_path / "pictures/worst.png").exists()
    assert {key for key in checkpoint if key not in exported} == {
        f"relation/{name}_{level}/landmarks-pose"
        for name in ("tau", "chance", "d1", "d2")
        for level in ("hidden", "output")
    }
    for key, value in exported.items():
        assert value == pytest.approx(checkpoint[key], abs=0.05), key


@pytest.mark.slow
def test_a_file_with_features_has_all_metrics_of_its_checkpoint(job, score, run_tool, tmp_path):
    path = tmp_path / "rich.onnx"
    arguments = (CONFIG, job["checkpoint"], path, "--features", *options(job["faces"]))
    assert run_tool("export_onnx", *arguments)[0] == 0
    checkpoint, _, _ = score(job["checkpoint"])
    exported, left_out, _ = score(path)
    assert left_out is None
    assert exported == pytest.approx(checkpoint, abs=0.05, nan_ok=True)


def test_a_quantised_file_stores_its_own_metrics(job, run_tool, tmp_path):
    path, report = tmp_path / "pose.onnx", tmp_path / "report.csv"
    arguments = ("--tasks", "pose", "--precision", "int8", "--evaluate", "val", "--report", report)
    arguments = (CONFIG, job["checkpoint"], path, *arguments, *options(job["faces"]))
    status, printed, error = run_tool("export_onnx", *arguments)
    assert status == 0, error
    metadata = TaskPredictor(path).metadata
    assert list(metadata["tasks"]) == ["pose"]
    assert set(metadata["metrics"]) == {"pose/accuracy", "pose/balanced_accuracy"}
    assert "split val, 16 pictures, boxes: perturbed" in metadata["metrics_of"]
    value = metadata["metrics"]["pose/accuracy"]
    change = value - metadata["pytorch_metrics"]["pose/accuracy"]
    assert f"{value:9.3f}  {change:+9.3f}" in printed
    with report.open(newline="") as file:
        rows = {row["quantity"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"pose", "pose/accuracy", "pose/balanced_accuracy"}
    assert 0 < float(rows["pose"]["difference"]) < 1
    assert float(rows["pose/accuracy"]["this_file"]) == value
    assert float(rows["pose/accuracy"]["difference"]) == pytest.approx(change)
    assert rows["pose/accuracy"]["pictures"] == "16"


def test_int8_without_pictures_to_measure_on_is_refused(job, run_tool, tmp_path):
    changes = ["model.backbone.model_name=test_resnet", "input_size=32"]
    changes.append(f"test_dataloader.dataset.data_root={tmp_path / 'nowhere'}")
    arguments = (job["checkpoint"], tmp_path / "m.onnx", "--precision", "int8", "--cfg-options")
    status, _, error = run_tool("export_onnx", MTFL_CONFIG, *arguments, *changes)
    assert status == 2
    assert "--evaluate none" in error
    assert not (tmp_path / "m.onnx").exists()


def test_training_logs_finite_losses_and_relations(job):
    (log,) = job["checkpoint"].parent.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    trained = [row for row in rows if "loss_pose" in row]
    assert any("relation/output/landmarks-pose" in row for row in trained)
    assert all(math.isfinite(v) for row in trained for v in row.values())


def test_a_resumed_run_continues(job, run_tool, tmp_path):
    work = tmp_path / "again"
    shutil.copytree(job["checkpoint"].parent, work)
    (work / "last_checkpoint").write_text(str(work / "epoch_2.pth"))
    arguments = (CONFIG, "--work-dir", work, "--resume", *options(job["faces"], 3))
    assert run_tool("train", *arguments)[0] == 0
    assert (work / "epoch_3.pth").exists()


def test_predict_gives_the_landmarks_of_the_evaluation(job, run_tool, tmp_path):
    """The same pictures and boxes, from file to pixels, with and without PyTorch."""
    config = cli.load_config(CONFIG, {"input_size": 32})
    dataset = config.test_dataloader.dataset
    dataset = DATASETS.build(dict(dataset, data_root=str(job["faces"]), **SIZES))
    model, _ = load_model(config, str(job["checkpoint"]))
    rows, expected = ["image,x0,y0,x1,y1"], []
    for item in (dataset[index] for index in range(6)):
        data = dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]])
        with torch.no_grad():
            (sample,) = model.test_step(data)
        expected.append(box_to_image(sample.pred["landmarks"].numpy(), sample.box))
        rows.append(",".join(map(str, [sample.img_path, *sample.box])))
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    arguments = ("--boxes", tmp_path / "boxes.csv", "--out-dir", tmp_path)
    assert run_tool("predict", job["exported"], *arguments)[0] == 0
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    for line, points in zip(lines, expected, strict=True):
        found = json.loads(line)
        landmarks = np.array(list(found["tasks"]["landmarks"].values()))
        side = found["box"][2] - found["box"][0]
        assert np.abs(landmarks - points).max() < 1e-4 * side


def test_training_and_validation_need_no_test_set(run_tool, tmp_path, monkeypatch):
    root = tmp_path / "faces"
    make_toy_faces(str(root), **SIZES)
    (root / "testing.txt").unlink()
    monkeypatch.setenv("MTFL_ROOT", str(root))
    changes = ["model.backbone.model_name=test_resnet", "model.backbone.pretrained=False"]
    changes += ["input_size=32", "train_cfg.max_epochs=1", *loaders(val_size=16)]
    work = ("--work-dir", tmp_path / "w", "--cfg-options", *changes)
    assert run_tool("train", MTFL_CONFIG, *work)[0] == 0
    arguments = (MTFL_CONFIG, tmp_path / "w/epoch_1.pth", "--split")
    assert run_tool("test", *arguments, "val", *work)[0] == 0
    status, _, error = run_tool("test", *arguments, "test", *work)
    assert status == 2
    assert "testing.txt' is missing: set MTFL_ROOT" in error


def test_mixed_precision_lets_the_scaler_skip_a_step(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = cli.load_config(CONFIG)
    use_mixed_precision(config)
    assert config.optim_wrapper.type == "AmpOptimWrapper"
    assert config.optim_wrapper.clip_grad.error_if_nonfinite is False
