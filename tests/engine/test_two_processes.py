"""torchrun with two processes on a CPU: training, testing, resuming, and a dying process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.datasets.toy_faces import make_toy_faces

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
_base_ = {base!r}

input_size = 32
faces = dict(data_root={faces!r}, train_size=80, test_size=21, val_size=16)
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=faces, batch_size=16, **loader)
val_dataloader = dict(dataset=faces, batch_size=8, **loader)
test_dataloader = dict(dataset=faces, batch_size=8, **loader)
model = dict(backbone=dict(model_name={name!r}, **{options}))
custom_hooks = [
    dict(
        type="TaskRelationLossHook",
        weights=dict(output=0.1, hidden=0.1),
        min_samples_per_dim=0,
    )
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="SGD", lr=0.01, momentum=0.9), clip_grad=None
)
param_scheduler = []
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    make_toy_faces(str(folder / "faces"), train_size=80, test_size=21)
    return folder


def config(folder, name="test_vit", **options):
    """A net with layer norm by default: batch norm would see one process's samples only."""
    path = folder / f"{name}.py"
    base = str(ROOT / "configs/toy/trn-hidden-output_test-resnet_toy.py")
    faces = str(folder / "faces")
    path.write_text(CONFIG.format(base=base, faces=faces, name=name, options=options))
    return path


def start(processes, tool, *arguments):
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)]
    if processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launch, *command[1:], "--launcher", "pytorch"]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def run(*arguments):
    process = start(*arguments)
    out = process.communicate()[0]
    assert process.returncode == 0, out[-3000:]


def test_two_processes_equal_one_with_the_full_batch(folder):
    path = config(folder)
    run(1, "train", path, "--work-dir", folder / "one")
    half = ("--cfg-options", "train_dataloader.batch_size=8")
    run(2, "train", path, "--work-dir", folder / "two", *half)
    one, two = (load_checkpoint_file(folder / name / "epoch_2.pth") for name in ("one", "two"))
    assert len(two["ranks"]) == 2
    for key, value in one["state_dict"].items():
        if not value.numel():  # such as covariances of pairs, if there are none
            continue
        value = value.double()
        scale = value.abs().max().clamp(min=1e-3)
        assert (two["state_dict"][key].double() - value).abs().max() <= 1e-4 * scale, key
    for key, log in one["message_hub"]["log_scalars"].items():
        if key.startswith(("train/relation", "train/loss_relation", "val/landmarks/NME")):
            found = two["message_hub"]["log_scalars"][key]["history"]
            assert torch.allclose(found, log["history"], rtol=1e-4, equal_nan=True), key


def test_testing_counts_every_sample_once(folder):
    path = config(folder)
    if not (folder / "one").exists():
        run(1, "train", path, "--work-dir", folder / "one")
    metrics = []
    for processes in (1, 2):
        out = folder / f"metrics{processes}.json"
        checkpoint = folder / "one" / "epoch_2.pth"
        run(processes, "test", path, checkpoint, "--out", out, "--work-dir", folder / "test")
        metrics.append(json.loads(out.read_text()))
    assert metrics[0] == pytest.approx(metrics[1])
    assert metrics[0]["relation/N/landmarks-pose"] == 21


def test_a_resumed_run_is_the_same_to_the_bit(folder):
    """With batch norm and stochastic depth."""
    path = config(folder, "test_resnet", drop_path_rate=0.3)
    options = ["--cfg-options", "train_dataloader.batch_size=8"]
    run(2, "train", path, "--work-dir", folder / "whole", *options)
    run(2, "train", path, "--work-dir", folder / "part", *options, "train_cfg.max_epochs=1")
    run(2, "train", path, "--work-dir", folder / "part", "--resume", *options)
    whole, part = (load_checkpoint_file(folder / n / "epoch_2.pth") for n in ("whole", "part"))
    for key, value in whole["state_dict"].items():
        assert torch.equal(part["state_dict"][key], value), key
    for mine, other in zip(whole["ranks"], part["ranks"], strict=True):
        assert torch.equal(mine["random"]["torch"], other["random"]["torch"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_run(folder, rank):
    work = folder / f"dies{rank}"
    endless = ("--cfg-options", "train_cfg.max_epochs=100000")
    process = start(2, "train", config(folder), "--work-dir", work, *endless)
    while not (work / "epoch_2.pth").exists():
        assert process.poll() is None
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[rank]), signal.SIGKILL)
    begun = time.monotonic()
    out = process.communicate(timeout=60)[0]
    print(f"ended {time.monotonic() - begun:.1f} s after")
    assert process.returncode != 0
    assert "]: Traceback" not in out  # torchrun adds its own summary
    assert (
        "SIGKILL" in out
    )  # torchrun stops the other process, unless it reports its own error first
    assert any((work / f"epoch_{n}.pth").exists() for n in range(2, 1000))
