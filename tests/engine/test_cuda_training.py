"""Training, resuming and exporting on a CUDA device, by the tools' own functions."""

import json

import pytest

from trn_plugin.cli import main

pytestmark = pytest.mark.cuda

SAMPLES = 320
CONFIG = "trn_plugin::toy/trn-hidden-output_test-resnet_toy.py"


def options(folder, **more):
    given = {
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 2,
        "default_hooks.logger.interval": 1,
        "custom_hooks.0.min_samples_per_dim": 0,
        **more,
    }
    for part in ("train", "val", "test"):
        given[f"{part}_dataloader.dataset.data_root"] = folder / "faces"
        given[f"{part}_dataloader.num_workers"] = 0
        given[f"{part}_dataloader.persistent_workers"] = False
        for split, size in (("train", SAMPLES), ("val", 64), ("test", 64)):
            given[f"{part}_dataloader.dataset.{split}_size"] = size
    return ["--cfg-options", *(f"{key}={value}" for key, value in given.items())]


def run(command, *arguments):
    """Run in this process: to start another takes as long as the trainings."""
    with pytest.raises(SystemExit) as ended:
        main([command, *map(str, arguments)])
    assert not ended.value.code


def losses(work):
    (log,) = sorted(work.glob("*/vis_data/scalars.json"))[-1:]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    run("train", CONFIG, "--work-dir", folder / "whole", *options(folder))
    return folder


def test_trains_on_the_device(trained):
    found = losses(trained / "whole")
    assert len(found) == 2 * (SAMPLES // 64 - 1)  # 64 rows belong to the validation set
    assert found[-1] < found[0]
    assert "cuda" in (next((trained / "whole").glob("*/*.log")).read_text().lower())


def test_resumes_after_an_epoch(trained):
    run(
        "train",
        CONFIG,
        "--work-dir",
        trained / "half",
        *options(trained, **{"train_cfg.max_epochs": 1}),
    )
    run("train", CONFIG, "--work-dir", trained / "half", "--resume", *options(trained))
    assert losses(trained / "half")[-1] == pytest.approx(losses(trained / "whole")[-1], rel=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_trains_in_mixed_precision(trained, dtype):
    mixed = {
        "optim_wrapper.type": "AmpOptimWrapper",
        "optim_wrapper.dtype": dtype,
        "optim_wrapper.clip_grad.error_if_nonfinite": False,
        "model.backbone.channels_last": True,
    }
    if dtype == "float16":
        mixed["optim_wrapper.loss_scale"] = "dynamic"
    run("train", CONFIG, "--work-dir", trained / dtype, *options(trained, **mixed))
    found = losses(trained / dtype)
    assert found[-1] < found[0]


def test_tests_and_exports(trained):
    given = [CONFIG, trained / "whole/epoch_2.pth"]
    run("test", *given, "--out", trained / "metrics.json", *options(trained))
    assert json.loads((trained / "metrics.json").read_text())["landmarks/NME"] < 100
    run("export", *given, trained / "model.onnx", *options(trained))
    assert (trained / "model.onnx").stat().st_size > 0
