import json
import math

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from trn_plugin import cli
from trn_plugin.checkpoints import save_checkpoint_file
from trn_plugin.deploy import TaskPredictor
from trn_plugin.deploy.checkpoint import crop_of, load_for_export
from trn_plugin.deploy.scores import file_sha256, scores_of
from trn_plugin.errors import ConfigError
from trn_plugin.registry import MODELS
from trn_plugin.tasks import read_tasks

CONFIG = """
default_scope = "trn_plugin"
input_size = (40, 32)
model = dict(
    type="MultiTaskModel",
    backbone=dict(
        type="TimmTrunk",
        model_name="test_resnet",
        pretrained=True,
        shared_stages=-1,
    ),
    heads=dict(
        landmarks=dict(type="LandmarkHead", num_points=5),
        pose=dict(type="ClassificationHead", num_classes=3),
    ),
    neck=dict(
        type="TaskRelationNeck",
        momentum=0.9,
        levels=("hidden", "output"),
        relations=[("landmarks", "pose")],
    ),
)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config and a checkpoint as training writes it, with the neck's running state."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.py").write_text(CONFIG)
    config = cli.load_config(str(folder / "config.py"), None)
    settings = config.model.to_dict()
    settings["backbone"]["pretrained"] = False
    torch.manual_seed(0)
    model = MODELS.build(settings)
    tasks = {"pose": dict(kind="class", classes=("left", "frontal", "right"), flip=(2, 1, 0))}
    meta = {"dataset_meta": {"tasks": tasks}, "metrics": {"pose/accuracy": 61.5, "note": "x"}}
    save_checkpoint_file({"state_dict": model.state_dict(), "meta": meta}, folder / "last.pth")
    return folder


def test_the_tool_exports_a_checkpoint(trained, tmp_path, run_tool):
    image = tmp_path / "face.png"
    cv2.imwrite(str(image), np.full((50, 70), 90, np.uint8))
    out = tmp_path / "new" / "model.onnx"
    files = (trained / "config.py", trained / "last.pth", out)
    status, printed, error = run_tool("export_onnx", *files, "--images", image)
    assert status == 0, error
    assert "32 x 40 pixels" in printed
    assert "no real pictures to compare on, synthetic ones only: config: has no val" in printed
    assert "compared on 1 of --images, synthetic pictures, batches of 1, 2 and 7" in printed
    assert "landmarks: differs from PyTorch by at most" in printed
    assert "pose: differs from PyTorch by at most" in printed
    assert "torch.onnx" not in printed + error
    predictor = TaskPredictor(out)
    assert predictor.input_size == (40, 32)
    assert predictor.tasks["pose"].names == ("left", "frontal", "right")
    assert predictor.metadata["metrics"] == {"pose/accuracy": 61.5}
    assert "the file holds the metrics of validation during training" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("gone.py CKPT OUT", "gone.py: no such config file"),
        ("CONFIG gone.pth OUT", "error: gone.pth: "),
        ("CONFIG CONFIG OUT", "config.py: "),
        ("CONFIG CKPT OUT --tasks gender", "expected some of landmarks, pose, found 'gender'"),
        ("CONFIG gone.pth OUT --opset 11", "opset: expected 18 to 2"),
        ("CONFIG gone.pth OUT --opset 99", ", found 99"),
        ("CONFIG CKPT OUT --precision int8", "config: has no test_dataloader; the file is"),
        ("CONFIG CKPT OUT --evaluate val", "config: has no val_dataloader; the file is"),
        ("CONFIG CKPT OUT --metrics gone.json", "gone.json: cannot be read"),
        ("CONFIG CKPT OUT --metrics CONFIG", "config.py: expected JSON from trn-plugin test --out"),
        ("CONFIG CKPT OUT --pictures 0", "--pictures: expected at least 1, found 0"),
        ("CONFIG CKPT OUT --images gone.png", "gone.png: cannot read the picture"),
        ("CONFIG CKPT OUT --cfg-options model.heads.pose.num_classes=4", "of another model"),
        ("CONFIG CKPT OUT --cfg-options model.backbone.model_name=resnet1", "resnet1"),
    ],
)
def test_bad_input_is_a_one_line_error_and_status_2(
    trained, tmp_path, run_tool, arguments, message
):
    names = dict(CONFIG=trained / "config.py", CKPT=trained / "last.pth", OUT=tmp_path / "m.onnx")
    words = (names.get(word, word) for word in arguments.split())
    status, _, error = run_tool("export_onnx", *words)
    assert status == 2
    (line,) = error.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_crops_of_another_size_than_the_networks_input_are_refused(trained):
    config = cli.load_config(str(trained / "config.py"), None)
    config.test_dataloader = dict(dataset=dict(pipeline=[dict(type="CropResize", size=48)]))
    with pytest.raises(ConfigError, match=r"test_dataloader: .*\(40, 32\).*\(48, 48\)"):
        load_for_export(config, str(trained / "last.pth"))


RECORD = {"config": "c.py", "checkpoint": "runs/epoch_3.pth", "split": "val"}
RECORD |= {"landmarks/NME": 5.25, "relation/tau_hidden/a-b": None}


def test_metrics_of_a_test_run_are_stored(trained, tmp_path):
    digest = file_sha256(trained / "last.pth")
    (tmp_path / "metrics.json").write_text(json.dumps(RECORD | {"checkpoint_sha256": digest}))
    config = cli.load_config(str(trained / "config.py"), None)
    arguments = (config, str(trained / "last.pth"), str(tmp_path / "metrics.json"))
    _, _, metadata = load_for_export(*arguments)
    assert metadata["metrics"] == {"landmarks/NME": 5.25}
    assert metadata["metrics_of"] == "split val, checkpoint epoch_3.pth"


@pytest.mark.parametrize("digest", [{}, {"checkpoint_sha256": 64 * "0"}])
def test_metrics_of_another_checkpoint_are_refused(trained, tmp_path, digest):
    (tmp_path / "metrics.json").write_text(json.dumps(RECORD | digest))
    with pytest.raises(ConfigError, match=r"metrics of .*last\.pth, found those of epoch_3\.pth"):
        scores_of(trained / "last.pth", {}, str(tmp_path / "metrics.json"))


META = dict(epoch=2, iter=20, experiment_name="toy_20261122_135741")


def write_log(folder, *lines):
    log = folder / "20261122_135741/vis_data/scalars.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"lr": 0.1, "it')


def test_metrics_are_those_logged_at_the_checkpoints_iteration(tmp_path):
    lines = [
        {"lr": 0.1, "loss": 2.0, "epoch": 2, "iter": 20, "step": 20},
        {"pose/accuracy": 50.0, "at_iter": 10, "time": 0.1, "step": 1},
        {"pose/accuracy": 60.0, "a/NME": math.nan, "at_iter": 20, "data_time": 0.1, "step": 2},
        {"pose/accuracy": 70.0, "at_iter": 30, "step": 3},
    ]
    write_log(tmp_path, *lines)
    found, origin = scores_of(tmp_path / "epoch_2.pth", META)
    assert found == {"pose/accuracy": 60.0}
    assert origin == (
        "validation during training, epoch 2, iteration 20, 20261122_135741/vis_data/scalars.json"
    )
    assert scores_of(tmp_path / "epoch_2.pth", META | dict(metrics={"b": 1.5}))[0] == {"b": 1.5}
    for other in (dict(iter=25), dict(experiment_name="toy_20261122_150000"), dict(iter=None)):
        assert scores_of(tmp_path / "epoch_2.pth", META | other) == ({}, None)
    write_log(tmp_path, *lines[:2])
    assert scores_of(tmp_path / "epoch_2.pth", META) == ({}, None)
    assert scores_of(tmp_path / "elsewhere" / "epoch_2.pth", META) == ({}, None)


@pytest.mark.parametrize(
    ("step", "dataset", "expected"),
    [
        (dict(type="FaceBox", mode="whole"), {}, ("whole", None)),
        (dict(type="FaceBox", mode="perturbed", scale=(2.0, 3.0)), {}, ("points", 2.5)),
        (dict(type="trn_plugin.FaceBox", mode="landmarks"), {}, ("points", 2.2)),
        (dict(type="RegionBox", training=False), {}, ("points", 2.2)),
        (dict(type="RegionBox", training=False), dict(box="whole"), ("whole", None)),
        (dict(type="RegionBox", training=False), dict(box=["a", "b", "c", "d"]), ("given", None)),
        (dict(type="LoadImage"), {}, None),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_metadata_describe_the_training_crop(step, dataset, expected, wrapped):
    points = read_tasks({"points": dict(kind="landmarks", names=("a", "b"))})
    dataset = dict(type="MTFL", pipeline=[dict(type="LoadImage"), step], **dataset)
    if wrapped:
        dataset = dict(type="ConcatDataset", datasets=[dataset])
    found = crop_of(Config(dict(val_dataloader=dict(dataset=dataset))), list(points.values()))
    if expected is None:
        assert found is None
    else:
        assert (found["box"], found.get("factor")) == expected


def test_without_points_a_region_is_the_whole_picture():
    loader = dict(dataset=dict(pipeline=[dict(type="RegionBox", training=False)]))
    tasks = read_tasks({"age": dict(kind="values", names=("years",))})
    assert crop_of(Config(dict(test_dataloader=loader)), list(tasks.values()))["box"] == "whole"
