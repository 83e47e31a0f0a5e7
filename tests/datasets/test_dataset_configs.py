from pathlib import Path

import pytest
from celeba_files import make_celeba
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from trn_plugin.datasets.celeba_format import ATTRIBUTES
from trn_plugin.registry import METRICS, MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FOLDER = CONFIGS / "_base_" / "datasets"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def load(name):
    return Config.fromfile(FOLDER / f"{name}.py")


def built(cfg, loader):
    config = cfg[loader]
    config.update(batch_size=3, num_workers=0, persistent_workers=False, pin_memory=False)
    with DefaultScope.overwrite_default_scope("trn_plugin"):
        return Runner.build_dataloader(config, seed=0)


@pytest.mark.parametrize("name", ["mtfl", "toy_faces"])
def test_every_loader_runs_on_toy_files(name, toy_root):
    cfg = load(name)
    seen = {}
    for loader in LOADERS:
        config = cfg[loader]
        config.dataset.update(type="MTFL", data_root=toy_root)
        if config.dataset.get("split"):
            config.dataset.val_size = 20
        data = built(cfg, loader)
        batch = next(iter(data))
        assert batch["inputs"].shape == (3, 3, cfg.input_size, cfg.input_size)
        sample = batch["data_samples"][0]
        assert set(sample.gt) == {"landmarks", "pose"}
        seen[loader] = (len(data.dataset), sample.box_source.split()[0])
    assert [size for size, _ in seen.values()] == [40, 20, 20]
    test_box = {"mtfl": "whole", "toy_faces": "perturbed"}[name]
    assert [box for _, box in seen.values()] == ["jittered", "perturbed", test_box]


@pytest.fixture(scope="module")
def celeba_files(tmp_path_factory):
    root = tmp_path_factory.mktemp("celeba_configs")
    make_celeba(root, size=(45, 54))
    return str(root)


CELEBA_CONFIGS = sorted((CONFIGS / "celeba").rglob("*.py"))


@pytest.mark.parametrize("path", CELEBA_CONFIGS, ids=lambda path: path.stem)
def test_celeba_configs(path, celeba_files, monkeypatch):
    monkeypatch.setenv("CELEBA_ROOT", celeba_files)
    cfg = Config.fromfile(path)
    method = "mtl" if "_mtl" in path.stem or path.stem.startswith("mtl") else path.stem[-3:]
    method = "trn" if path.stem.startswith("trn") else method
    # the three methods of the paper
    assert cfg.model.backbone.shared_stages == (0 if method == "stl" else "all")
    hooks = [dict(type="TaskRelationLossHook", weights=dict(output=0.01))]
    assert cfg.custom_hooks == (hooks if method == "trn" else [])
    assert cfg.model.neck.momentum == 0.99
    assert [cfg[loader].batch_size for loader in LOADERS] == [128] * 3

    heads = cfg.model.heads
    cfg.model.backbone.update(model_name="test_resnet", pretrained=False)
    model = MODELS.build(cfg.model)
    for loader, split, size in zip(LOADERS, ("train", "val", "test"), (12, 6, 6), strict=True):
        assert cfg[loader].dataset.split == split
        data = built(cfg, loader)
        assert len(data.dataset) == size
        model.check_dataset(data.dataset.metainfo)
        batch = next(iter(data))
        assert batch["inputs"].shape == (3, 3, cfg.input_size, cfg.input_size)
        assert set(batch["data_samples"][0].gt) == set(heads)
    for evaluator in cfg.val_evaluator:
        with DefaultScope.overwrite_default_scope("trn_plugin"):
            METRICS.build(evaluator).dataset_meta = data.dataset.metainfo
    names = [info["names"] for info in data.dataset.metainfo["tasks"].values()]
    if "pairs" in path.parts:
        assert tuple(len(name) for name in names) == (1, 1)
        said = path.stem.rsplit("_", 1)[0]
        assert "_".join(name[0].lower().replace("_", "-") for name in names) == said
    else:
        assert names == [ATTRIBUTES[:20], ATTRIBUTES[20:]]
