"""The main job on a few toy faces: train, resume, test, export, predict, and their bad input."""

import csv
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tool_runs import tool

from trn_plugin import TaskPredictor, cli
from trn_plugin.cli.config import use_mixed_precision
from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.errors import DataError
from trn_plugin.geometry import read_image

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/toy/trn-hidden-output_test-resnet_toy.py")
MTFL_CONFIG = str(ROOT / "configs/mtfl/mtl_resnet18_mtfl.py")
SIZES = dict(train_size=80, test_size=24)


def options(root, epochs=1, *more):
    listing = [f"train_cfg.max_epochs={epochs}", "train_cfg.val_interval=1", "input_size=32"]
    for part in ("train", "val", "test"):
        loader = f"{part}_dataloader"
        listing += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
        listing += [f"{loader}.batch_size=16", f"{loader}.dataset.data_root={root}"]
        listing += [f"{loader}.dataset.{k}={v}" for k, v in dict(SIZES, val_size=16).items()]
    hook = "custom_hooks.0.allow_undersampled=True"
    return ["--cfg-options", *listing, hook, *more]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """One trained run: its folder, checkpoint, exported model."""
    folder = tmp_path_factory.mktemp("job")
    faces = folder / "faces"
    make_toy_faces(str(faces), **SIZES)
    with pytest.MonkeyPatch.context() as patch:
        work = folder / "work"
        assert tool("train", CONFIG, "--work-dir", work, *options(faces, 2), monkeypatch=patch) == 0
        checkpoint, exported = work / "epoch_2.pth", folder / "model.onnx"
        status = tool(
            "export_onnx", CONFIG, checkpoint, exported, *options(faces), monkeypatch=patch
        )
        assert status == 0
    return dict(folder=folder, faces=faces, checkpoint=checkpoint, exported=exported)


def test_metrics_of_a_checkpoint(job, monkeypatch):
    out, pictures = job["folder"] / "metrics.json", job["folder"] / "pictures"
    arguments = ("--out", out, "--show-dir", pictures, "--work-dir", job["folder"] / "test")
    status = tool(
        "test",
        CONFIG,
        job["checkpoint"],
        *arguments,
        *options(job["faces"]),
        monkeypatch=monkeypatch,
    )
    assert status == 0
    metrics = json.loads(out.read_text())
    for key in ("landmarks/NME", "pose/accuracy", "pose/balanced_accuracy"):
        assert 0 <= metrics[key] < 1000
    assert metrics["relation/N/landmarks-pose"] == SIZES["test_size"]
    assert metrics["relation/tau_hidden/landmarks-pose"] is None  # 24 samples, 192 features
    assert 0 < metrics["relation/tau_gt/landmarks-pose"] <= 1
    assert (pictures / "worst.png").exists()


def test_measuring_leaves_the_config_that_was_trained(job, monkeypatch):
    work = job["checkpoint"].parent
    trained = work / Path(CONFIG).name
    before = trained.read_text()
    changed = options(job["faces"], 7)
    where = ("--work-dir", work)
    assert tool("test", CONFIG, job["checkpoint"], *where, *changed, monkeypatch=monkeypatch) == 0
    assert trained.read_text() == before
    assert "max_epochs=2" in before
    assert len(list(work.glob("*/vis_data/config.py"))) >= 2


def score(job, model, folder, monkeypatch, *arguments):
    arguments = ("--out", folder / "m.json", "--work-dir", folder / "work", *arguments)
    status = tool(
        "test", CONFIG, model, *arguments, *options(job["faces"]), monkeypatch=monkeypatch
    )
    assert status == 0
    record = json.loads((folder / "m.json").read_text())
    return {k: v for k, v in record.items() if "/" in k}, record.get("not_measured")


def test_an_exported_file_holds_what_validation_found(job, tmp_path, monkeypatch):
    metadata = TaskPredictor(job["exported"]).metadata
    assert "epoch 2" in metadata["metrics_of"]
    assert metadata["metrics_of"].endswith("vis_data/scalars.json")
    again, _ = score(job, job["checkpoint"], tmp_path, monkeypatch, "--split", "val")
    known = {key: value for key, value in again.items() if value is not None}
    assert metadata["metrics"] == pytest.approx(known)


def test_a_checkpoint_predicts_what_its_exported_file_does(job):
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
    with pytest.raises(DataError, match=r"expected one box a picture, found 1 for"):
        network.predict([pictures], boxes)


def test_an_exported_file_scores_what_its_checkpoint_does(job, tmp_path, monkeypatch, capsys):
    checkpoint, _ = score(job, job["checkpoint"], tmp_path, monkeypatch)
    arguments = ("--show-dir", tmp_path / "pictures")
    exported, left_out = score(job, job["exported"], tmp_path, monkeypatch, *arguments)
    printed = capsys.readouterr().out
    assert "not measured: TaskSimilarity: tau_hidden, tau_output" in printed
    assert "not drawn: similarity.png" in printed
    assert "export --features" in left_out[0]
    assert (tmp_path / "pictures" / "worst.png").exists()
    assert {key for key in checkpoint if key not in exported} == {
        f"relation/{name}_{level}/landmarks-pose"
        for name in ("tau", "chance", "d1", "d2")
        for level in ("hidden", "output")
    }
    for key, value in exported.items():
        assert value == pytest.approx(checkpoint[key], abs=0.05), key


@pytest.mark.slow
def test_a_file_with_features_scores_all_that_its_checkpoint_does(job, tmp_path, monkeypatch):
    path = tmp_path / "rich.onnx"
    arguments = (job["checkpoint"], path, "--features", *options(job["faces"]))
    assert tool("export_onnx", CONFIG, *arguments, monkeypatch=monkeypatch) == 0
    checkpoint, _ = score(job, job["checkpoint"], tmp_path, monkeypatch)
    exported, left_out = score(job, path, tmp_path, monkeypatch)
    assert left_out is None
    assert exported == pytest.approx(checkpoint, abs=0.05, nan_ok=True)


def test_a_quantised_file_says_what_it_scores(job, tmp_path, monkeypatch, capsys):
    path, report = tmp_path / "pose.onnx", tmp_path / "report.csv"
    arguments = ("--tasks", "pose", "--precision", "int8", "--evaluate", "val", "--report", report)
    status = tool(
        "export_onnx",
        CONFIG,
        job["checkpoint"],
        path,
        *arguments,
        *options(job["faces"]),
        monkeypatch=monkeypatch,
    )
    assert status == 0
    metadata = TaskPredictor(path).metadata
    assert list(metadata["tasks"]) == ["pose"]
    assert set(metadata["metrics"]) == {"pose/accuracy", "pose/balanced_accuracy"}
    assert "split val, 16 pictures, boxes: perturbed" in metadata["metrics_of"]
    printed = capsys.readouterr().out
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


def test_an_exported_file_without_pictures_is_not_quantised_unmeasured(
    job, tmp_path, monkeypatch, capsys
):
    arguments = (tmp_path / "m.onnx", "--precision", "int8")
    changes = ("model.backbone.model_name=test_resnet", "input_size=32")
    changes += (f"test_dataloader.dataset.data_root={tmp_path / 'nowhere'}",)
    status = tool(
        "export_onnx",
        MTFL_CONFIG,
        job["checkpoint"],
        *arguments,
        "--cfg-options",
        *changes,
        monkeypatch=monkeypatch,
    )
    assert status == 2
    assert "--evaluate none" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


def test_training_logs_finite_losses_and_relations(job):
    (log,) = (job["folder"] / "work").glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    values = [v for row in rows for k, v in row.items() if "loss" in k or k.startswith("relation/")]
    assert values
    assert any("relation/output/landmarks-pose" in row for row in rows)
    trained = [row for row in rows if "loss_pose" in row]
    assert all(math.isfinite(v) for row in trained for v in row.values())


def test_similarity_of_the_labels(job, tmp_path, monkeypatch, capsys):
    status = tool(
        "task_similarity",
        CONFIG,
        "--out-dir",
        tmp_path,
        *options(job["faces"]),
        monkeypatch=monkeypatch,
    )
    assert status == 0
    pairs = json.loads((tmp_path / "similarity.json").read_text())
    assert len(pairs) == 10  # of all five tasks, not only the config's two
    assert {"landmarks", "pose"} == {pairs[0]["a"], pairs[0]["b"]}
    assert "most related labels first" in capsys.readouterr().out
    assert (tmp_path / "similarity.png").stat().st_size > 0
    assert len((tmp_path / "similarity.csv").read_text().splitlines()) == 11


def test_a_resumed_run_goes_on(job, monkeypatch):
    work = job["folder"] / "again"
    shutil.copytree(job["checkpoint"].parent, work)
    (work / "last_checkpoint").write_text(str(work / "epoch_2.pth"))
    status = tool(
        "train",
        CONFIG,
        "--work-dir",
        work,
        "--resume",
        *options(job["faces"], 3),
        monkeypatch=monkeypatch,
    )
    assert status == 0
    assert (work / "epoch_3.pth").exists()


def test_predict_gives_the_landmarks_of_the_evaluation(job, monkeypatch):
    """Same picture, same box: the whole way from the file to pixels, with and without torch."""
    import torch
    from mmengine.config import Config

    from trn_plugin.geometry import box_to_image
    from trn_plugin.registry import DATASETS, MODELS

    config = cli.load_config(CONFIG, None)
    assert isinstance(config, Config)
    config.input_size = 32
    settings = config.test_dataloader.dataset
    settings.update(data_root=str(job["faces"]), input_size=32, **SIZES)
    config.model.backbone.img_size = 32
    dataset = DATASETS.build(settings)
    model = MODELS.build(config.model)
    state = torch.load(job["checkpoint"], weights_only=True)["state_dict"]
    model.load_state_dict(state)
    model.eval()
    for index in range(6):
        item = dataset[index]
        data = dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]])
        with torch.no_grad():
            (sample,) = model.test_step(data)
        box = sample.box
        expected = box_to_image(sample.pred["landmarks"].numpy(), box)
        out = job["folder"] / f"predict{index}"
        status = tool(
            "predict",
            job["exported"],
            sample.img_path,
            "--box",
            *box,
            "--out-dir",
            out,
            monkeypatch=monkeypatch,
        )
        assert status == 0
        (line,) = (out / "predictions.jsonl").read_text().splitlines()
        found = json.loads(line)
        landmarks = np.array(list(found["tasks"]["landmarks"].values()))
        side = box[2] - box[0]
        assert np.abs(landmarks - expected).max() < 1e-4 * side


def with_rows(job, tmp_path, change):
    """A copy of the toy faces, read as MTFL, with an annotation file changed."""
    root = tmp_path / "mtfl"
    shutil.copytree(job["faces"], root)
    (root / "toy_faces.json").unlink()
    path = root / "training.txt"
    lines = path.read_bytes().split(b"\r\n")
    change(root, lines)
    path.write_bytes(b"\r\n".join(lines))
    return root


def short_row(root, lines):
    lines[2] = b" ".join(lines[2].split()[:-1])


def broken_picture(root, lines):
    for picture in (root / "toy_train").iterdir():
        picture.write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("change", "workers", "message"),
    [
        (short_row, 0, r"training.txt:3: expected 15 columns"),
        (broken_picture, 0, r"toy_train/.*not a readable picture"),
        (broken_picture, 2, r"toy_train/.*not a readable picture"),
    ],
)
def test_bad_data_is_one_line(job, tmp_path, monkeypatch, capfd, change, workers, message):
    root = with_rows(job, tmp_path, change)
    more = [f"{p}_dataloader.dataset.type=MTFL" for p in ("train", "val", "test")]
    changed = [o for o in options(root, 1, *more) if not any(f"{s}=" in o for s in SIZES)] + [
        f"train_dataloader.num_workers={workers}"
    ]
    # ToyFaces' own arguments are not MTFL's
    status = tool("train", CONFIG, "--work-dir", tmp_path / "w", *changed, monkeypatch=monkeypatch)
    assert_one_line(status, capfd, message)


def assert_one_line(status, capfd, message):
    import re

    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert status == 2
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", ["absent.py"], r"absent\.py: no such config file"),
        ("test", [str(ROOT / "LICENSE"), CONFIG], r"LICENSE: expected a config \(\.py, .*first"),
        ("train", [CONFIG, "--amp"], r"--amp needs CUDA"),
        (
            "train",
            [CONFIG, "--launcher", "pytorch"],
            r"RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set",
        ),
        ("train", [CONFIG, "--resume", "absent.pth"], r"absent\.pth: no such checkpoint"),
        ("test", [CONFIG, "absent.pth"], r"absent\.pth: no such checkpoint"),
        ("export_onnx", [CONFIG, "absent.pth", "x.onnx"], r"absent\.pth: no such checkpoint"),
        ("export_onnx", [CONFIG, "a.pth", "a.pth"], r"a\.pth: expected .* ends in \.onnx"),
        (
            "train",
            [CONFIG, "--work-dir", CONFIG],
            r"work directory .*expected a folder, found a file",
        ),
    ],
)
def test_bad_arguments_are_one_line(job, tmp_path, monkeypatch, capfd, name, arguments, message):
    monkeypatch.chdir(tmp_path)
    extra = options(job["faces"]) if arguments[0] == CONFIG else []
    status = tool(name, *arguments, *extra, monkeypatch=monkeypatch)
    assert_one_line(status, capfd, message)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "model.backbone.model_name=resnet19",
            r"timm knows no 'resnet19'; close matches: .*resnet",
        ),
        ("model.backbone.shared_stages=9", r"shared_stages: expected 0, 'all', a stage .*layer4"),
        ("model.neck.relations=[('landmarks','age')]", r"'age' names no task"),
        ("model.backbone.type=TimTrunk", r"TimTrunk is not in the"),
        ("model.bananas=1", r"bananas"),
        ("complie=True", r"--cfg-options complie: no such key, did you mean 'compile'\?"),
        ("modle.neck=None", r"--cfg-options modle\.neck: no such key, did you mean 'model'\?"),
        ("inputsize=48", r"--cfg-options inputsize: no such key, did you mean 'input_size'\?"),
        ("train_dataloader.dataset.tasks=('age',)", r"age"),
        (
            "train_dataloader.dataset.tasks=('pose',)",
            r"model\.heads\.landmarks: .* gives no labels",
        ),
        ("model.heads.pose.num_classes=4", r"model\.heads\.pose: .* expects 4 .* has 5 of kind"),
        ("train_dataloader.dataset.type=Faces", r"dataloader: Faces is not in the"),
        ("train_dataloader.dataset.bananas=3", r"train_dataloader.dataset: .*bananas"),
        (
            "train_dataloader.dataset.pipeline.0.type=Load",
            r"train_dataloader.dataset: Load is not in the",
        ),
        ("model.heads.pose.loss_weight=x", r"model\.heads\.pose\.loss_weight: .*number, found 'x'"),
        ("model.heads.pose.loss_weight=None", r"model\.heads\.pose\.loss_weight: .*found None"),
        ("optim_wrapper.clip_grad.max_norm=x", r"optim_wrapper\.clip_grad: .*'max_norm': 'x'"),
        ("optim_wrapper.optimizer.type=Foo", r"optimizer is named .Foo"),
        ("optim_wrapper.optimizer.bananas=3", r"optim_wrapper: .*bananas"),
        ("param_scheduler.1.eta_min=x", r"param_scheduler\.1\.eta_min: .*number, found 'x'"),
        ("param_scheduler.0.end=0", r"param_scheduler: .*end"),
        ("val_evaluator.0.norm=miles", r"norm"),
        ("train_cfg.max_epoch=1", r"train_cfg: .*max_epoch"),
        ("model.init_cfg.type=Pretrained", r"model\.init_cfg: not used"),
        ("model.backbone.img_size=96", r"img_size is 96, but input_size is 32"),
        ("model.backbone=None", r"model\.backbone: expected a dict, found None"),
        ("model.backbone=resnet18", r"model\.backbone: expected a dict, found 'resnet18'"),
    ],
)
def test_bad_config_values_are_one_line(job, tmp_path, monkeypatch, capfd, option, message):
    arguments = options(job["faces"], 1, option)
    status = tool("train", CONFIG, "--work-dir", tmp_path, *arguments, monkeypatch=monkeypatch)
    assert_one_line(status, capfd, message)


@pytest.mark.parametrize("option", ["train_cfg.max_epochs", "model.neck.relations=[('a','b')"])
def test_options_that_cannot_be_parsed(option, monkeypatch, capfd):
    status = tool("train", CONFIG, "--cfg-options", option, monkeypatch=monkeypatch)
    assert status == 2
    assert f"expected KEY=VALUE, got {option!r}" in capfd.readouterr().err


def test_a_missing_root_says_where_to_get_the_data(tmp_path, monkeypatch, capfd):
    """At once: before pretrained weights are asked for, which takes minutes without a network."""
    import timm

    def asked(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr(timm, "create_model", asked)
    root = tmp_path / "nowhere"
    changed = [f"{p}_dataloader.dataset.data_root={root}" for p in ("train", "val", "test")]
    arguments = ("--work-dir", tmp_path / "w", "--cfg-options", *changed)
    status = tool("train", MTFL_CONFIG, *arguments, monkeypatch=monkeypatch)
    assert_one_line(status, capfd, r"nowhere.*MTFL_ROOT.*http")


def test_training_and_validation_need_no_test_set(tmp_path, monkeypatch, capfd):
    root = tmp_path / "faces"
    make_toy_faces(str(root), **SIZES)
    (root / "testing.txt").unlink()
    monkeypatch.setenv("MTFL_ROOT", str(root))
    changes = ["model.backbone.model_name=test_resnet", "model.backbone.pretrained=False"]
    changes += ["input_size=32", "train_cfg.max_epochs=1", "val_dataloader.dataset.val_size=16"]
    changes += ["train_dataloader.dataset.val_size=16", "train_dataloader.batch_size=16"]
    changes += [f"{p}_dataloader.num_workers=0" for p in ("train", "val", "test")]
    changes += [f"{p}_dataloader.persistent_workers=False" for p in ("train", "val", "test")]
    work = ("--work-dir", tmp_path / "w", "--cfg-options", *changes)
    assert tool("train", MTFL_CONFIG, *work, monkeypatch=monkeypatch) == 0
    arguments = (MTFL_CONFIG, tmp_path / "w/epoch_1.pth", "--split")
    assert tool("test", *arguments, "val", *work, monkeypatch=monkeypatch) == 0
    status = tool("test", *arguments, "test", *work, monkeypatch=monkeypatch)
    assert_one_line(status, capfd, r"testing\.txt' is missing: set MTFL_ROOT")


def test_mixed_precision_lets_the_scaler_skip_a_step(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = cli.load_config(CONFIG, None)
    use_mixed_precision(config)
    assert config.optim_wrapper.type == "AmpOptimWrapper"
    assert config.optim_wrapper.clip_grad.error_if_nonfinite is False


def test_tools_leave_nothing_in_the_working_directory(job):
    assert "predictions" not in os.listdir(ROOT)
