"""onedl-mmengine, the maintained fork of MMEngine, in place of it."""

import os
import subprocess
import sys

import pytest

OPTIONS = ["train_cfg.max_epochs=1", "input_size=32", "custom_hooks.0.allow_undersampled=True"]
for part in ("train", "val", "test"):
    for option in ("num_workers=0", "persistent_workers=False", "batch_size=16"):
        OPTIONS.append(f"{part}_dataloader.{option}")
    for option in ("data_root=faces", "train_size=48", "val_size=8", "test_size=8"):
        OPTIONS.append(f"{part}_dataloader.dataset.{option}")


@pytest.mark.slow
def test_onedl_mmengine_trains_and_resumes(tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir"]
    folder = tmp_path / "packages"
    command = [*pip, "--target", str(folder), "onedl-mmengine"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install: {done.stderr.strip().splitlines()[-1]}")
    before = filter(None, [str(folder), os.environ.get("PYTHONPATH")])
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(before))

    def run(*arguments):
        command = [sys.executable, *arguments]
        options = dict(cwd=tmp_path, env=environment, capture_output=True, text=True)
        return subprocess.run(command, **options)

    assert str(folder) in run("-c", "import mmengine; print(mmengine.__file__)").stdout
    config = "trn_plugin::toy/trn-output_test-resnet_toy.py"
    train = ["-m", "trn_plugin", "train", config, "--work-dir", "work"]
    done = run(*train, "--cfg-options", *OPTIONS)
    assert done.returncode == 0, done.stderr
    done = run(*train, "--resume", "--cfg-options", *OPTIONS, "train_cfg.max_epochs=2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work/epoch_2.pth").is_file()
