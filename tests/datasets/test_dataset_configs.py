from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "datasets"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def load(name):
    return Config.fromfile(FOLDER / f"{name}.py")


@pytest.mark.parametrize("name", ["mtfl", "toy_faces"])
def test_every_loader_runs_on_toy_files(name, toy_root):
    cfg = load(name)
    seen = {}
    for loader in LOADERS:
        config = cfg[loader]
        config.update(batch_size=4, num_workers=0, persistent_workers=False)
        config.dataset.update(type="MTFL", data_root=toy_root)
        if config.dataset.get("split"):
            config.dataset.val_size = 20
        with DefaultScope.overwrite_default_scope("trn_plugin"):
            built = Runner.build_dataloader(config, seed=0)
        batch = next(iter(built))
        assert batch["inputs"].shape == (4, 3, cfg.input_size, cfg.input_size)
        sample = batch["data_samples"][0]
        assert set(sample.gt) == {"landmarks", "pose"}
        seen[loader] = (len(built.dataset), sample.box_source.split()[0])
    assert [size for size, _ in seen.values()] == [40, 20, 20]
    test_box = {"mtfl": "whole", "toy_faces": "perturbed"}[name]
    assert [box for _, box in seen.values()] == ["jittered", "perturbed", test_box]


def test_the_environment_names_the_root(monkeypatch):
    monkeypatch.setenv("MTFL_ROOT", "/some/where")
    assert load("mtfl").train_dataloader.dataset.data_root == "/some/where"
    monkeypatch.delenv("MTFL_ROOT")
    assert load("mtfl").train_dataloader.dataset.data_root == "data/MTFL"


def test_options_override_sizes():
    cfg = load("mtfl")
    cfg.merge_from_dict(
        {"train_dataloader.batch_size": 8, "train_dataloader.dataset.input_size": 48}
    )
    assert cfg.train_dataloader.batch_size == 8
    assert cfg.train_dataloader.dataset.input_size == 48
