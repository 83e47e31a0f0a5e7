"""What stands in a fenced block of a page is run, or says that it is not."""

import json
import os
import shutil

import commands
import pytest
import torch
import yaml
from pages import PAGES, ROOT, blocks, name_of

from trn_plugin.cli import main
from trn_plugin.cli.config import load_config
from trn_plugin.datasets import ToyFaces

TOY = "trn_plugin::toy/trn-hidden-output_test-resnet_toy.py"
NOT_CODE = ("", "text", "csv", "bibtex", "math")
# of a toy data set that is drawn in a moment: ann_file, tasks, seed, and the three sizes
SMALL = ("training.txt", ("landmarks", "pose"), 0, 96, 16, 16)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder as a reader has it after "Try it": checkpoint, exported file and pictures."""
    folder = tmp_path_factory.mktemp("trained")
    before = os.getcwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyFaces.__init__, "__defaults__", SMALL)
        try:
            run("train", TOY, "--work-dir", "work_dirs/toy", "--cfg-options", *fast())
            os.rename("work_dirs/toy/epoch_1.pth", "work_dirs/toy/epoch_15.pth")
            run("export", TOY, "work_dirs/toy/epoch_15.pth", "model.onnx", "--pictures", 2)
        finally:
            os.chdir(before)
    shutil.copytree(folder / "data/toy_faces/toy_test", folder / "photos")
    shutil.copy(folder / "photos/00001.jpg", folder / "photo.jpg")
    shutil.copy(folder / "model.onnx", folder / "work_dirs/toy")
    return folder


def run(command, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([command, *map(str, arguments)])
    assert stop.value.code == 0


def fast():
    loaders = [f"{part}_dataloader" for part in ("train", "val", "test")]
    return ["train_cfg.max_epochs=1"] + [
        f"{loader}.{option}"
        for loader in loaders
        for option in ("num_workers=0", "persistent_workers=False")
    ]


@pytest.fixture
def reader(trained, tmp_path, monkeypatch):
    """A folder like the root of a clone, where what the page saves lies."""
    for name in ("configs", "tools", "tests"):
        os.symlink(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.*[gv]"))
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    commands.install_programs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ToyFaces.__init__, "__defaults__", SMALL)
    return tmp_path


def loop():
    """What the loops on the pages take for granted: a model of two tasks and its data."""
    first, second = torch.nn.Linear(12, 4), torch.nn.Linear(12, 3)
    model = torch.nn.Module()
    model.forward = lambda x: (first(x.flatten(1)), second(x.flatten(1)))
    batches = [(torch.rand(32, 3, 2, 2), torch.rand(32, 4), torch.rand(32, 3)) for _ in range(2)]
    mse = torch.nn.functional.mse_loss
    parameters = [*first.parameters(), *second.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    return dict(model=model, loader=batches, loss1=mse, loss2=mse, optimizer=optimizer)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks(page, reader):
    names = {"__name__": "__page__", **loop()}
    found = blocks(page)
    for block in found:  # files first: a command may stand above what it reads
        if block.title:
            place = reader / block.title
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block.text)
    for block in found:
        try:
            run_block(block, reader, names)
        except Exception as error:
            raise AssertionError(f"{block.where}: {type(error).__name__}: {error}") from None


def run_block(block, folder, names):
    if block.mark:
        kind, said = block.mark
        assert kind == "not run" or (ROOT / said).is_file(), said
    elif block.language == "bash":
        for call in commands.recorded(block.text, folder):
            commands.check(*call)
    elif block.language == "python":
        run_python(block, folder, names)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language in ("yaml", "yml"):
        yaml.safe_load(block.text)
    else:
        assert block.language in NOT_CODE, f"{block.language}: run it by a test, or mark it"


def run_python(block, folder, names):
    """A config is built; a file that a config imports is imported with it; the rest is run."""
    if "_base_ = " in block.text:
        path = folder / (block.title or f"block_{block.line}.py")
        path.write_text(block.text)
        commands.build(load_config(str(path)))
    elif block.title:
        compile(block.text, block.title, "exec")
    else:
        exec(compile(block.text, block.where, "exec"), names)


def test_every_page_is_in_the_navigation():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in settings, page


def test_the_front_page_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    assert len(text.split()) <= 1300
