"""tools/dist_train.sh and tools/slurm_train.sh."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.datasets.toy_faces import make_toy_faces

TOOLS = Path(__file__).resolve().parents[2] / "tools"
CONFIG = TOOLS.parent / "configs/toy/trn-output_test-resnet_toy.py"


@pytest.fixture
def environment(tmp_path):
    """PATH with the tests' ``python``, preceded by programs of the test."""
    path = os.pathsep.join([str(tmp_path), os.path.dirname(sys.executable), os.environ["PATH"]])
    return dict(os.environ, PATH=path, PYTHONPATH=str(TOOLS.parent), OMP_NUM_THREADS="1")


def start(script, *arguments, **options):
    return subprocess.Popen(
        ["bash", str(TOOLS / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_two_nodes_train_together(tmp_path, environment):
    """Over loopback; each node is a torchrun with one process."""
    make_toy_faces(str(tmp_path / "faces"), train_size=32, test_size=8)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        environment["PORT"] = str(s.getsockname()[1])
    options = ["input_size=32", "train_cfg.max_epochs=1"]
    for part in ("train", "val", "test"):
        options += [f"{part}_dataloader.dataset.data_root={tmp_path / 'faces'}"]
        sizes = dict(train_size=32, test_size=8, val_size=8)
        options += [f"{part}_dataloader.dataset.{k}={v}" for k, v in sizes.items()]
        options += [f"{part}_dataloader.num_workers=0"]
        options += [f"{part}_dataloader.persistent_workers=False"]
        options += [f"{part}_dataloader.batch_size=8"]
    options += ["custom_hooks.0.min_samples_per_dim=0"]
    nodes = [
        start(
            "dist_train.sh",
            *(CONFIG, 1, "--work-dir", tmp_path / "work", "--cfg-options", *options),
            env=dict(environment, NNODES="2", NODE_RANK=str(rank)),
        )
        for rank in range(2)
    ]
    for node in nodes:
        out = node.communicate(timeout=200)[0]
        assert node.returncode == 0, out[-3000:]
    assert len(load_checkpoint_file(tmp_path / "work" / "epoch_1.pth")["ranks"]) == 2


@pytest.mark.parametrize("script", ["dist_train.sh", "slurm_train.sh"])
def test_without_arguments_it_prints_its_usage(script):
    process = start(script)
    out = process.communicate()[0]
    assert process.returncode == 2
    assert f"tools/{script}" in out


def test_slurm_gets_the_requested_resources(tmp_path, environment):
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    environment.update(GPUS="4", SRUN_ARGS="--exclusive --mem 8G")
    process = start("slurm_train.sh", "gpus", "toy", CONFIG, "work", "--resume", env=environment)
    lines = process.communicate()[0].split("\n")
    asked = ["-p", "gpus", "--ntasks=4", "--gres=gpu:4", "--ntasks-per-node=4", "8G", "--resume"]
    assert process.returncode == 0
    assert all(word in lines for word in (*asked, "slurm", "--work-dir=work", str(CONFIG)))
