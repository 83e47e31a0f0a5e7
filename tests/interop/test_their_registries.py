"""Configs of this package that mmpretrain's registries build, on their own and within theirs."""

import pytest
from jobs import NARROW_RESNET, TOY, small_toy
from mmengine.config import Config
from mmpretrain.registry import METRICS, MODELS, RUNNERS

from trn_plugin.cli import main
from trn_plugin.engine import SafeRunner


def test_their_registries_build_our_config(tmp_path):
    config = small_toy(tmp_path, tmp_path / "work")
    metric = METRICS.build(dict(type="trn_plugin.Accuracy", task="pose"))
    assert type(metric).__module__.startswith("trn_plugin.")
    model = MODELS.build({**config.model, "type": "trn_plugin.MultiTaskModel"})
    assert type(model).__name__ == "MultiTaskModel"
    runner = RUNNERS.build(config)
    assert isinstance(runner, SafeRunner)
    runner.train()
    assert (tmp_path / "work/epoch_1.pth").is_file()


def test_our_config_is_a_base_of_theirs(tmp_path):
    """``package::`` notes the package in each dict, whose scope MMEngine then builds in."""
    small = small_toy(tmp_path, tmp_path / "work")
    small.default_scope = "mmpretrain"
    own = dict(small.to_dict())
    (tmp_path / "theirs.py").write_text(f'_base_ = "{TOY}"\ndefault_scope = "mmpretrain"\n')
    config = Config.fromfile(tmp_path / "theirs.py")
    config.merge_from_dict({key: own[key] for key in ("work_dir", "train_cfg", "log_level")})
    for part in ("train", "val", "test"):
        loader = own[f"{part}_dataloader"]
        options = {k: loader[k] for k in ("num_workers", "persistent_workers", "batch_size")}
        sizes = ("data_root", "train_size", "val_size", "test_size", "input_size")
        options["dataset"] = {k: loader["dataset"][k] for k in sizes}
        config.merge_from_dict({f"{part}_dataloader": options})
    config.merge_from_dict({"custom_hooks.0.allow_undersampled": True, "input_size": 32})
    RUNNERS.build(config).train()
    assert (tmp_path / "work/epoch_1.pth").is_file()


def test_their_backbone_is_our_trunk(tmp_path):
    """Trained, tested and exported."""
    config = small_toy(tmp_path, tmp_path / "work")
    config.model.backbone = {**NARROW_RESNET, "type": "mmpretrain.ResNet"}
    config.model.neck.levels = ("output",)
    config.dump(tmp_path / "config.py")
    arguments = [str(tmp_path / "config.py"), str(tmp_path / "work/epoch_1.pth")]
    RUNNERS.build(config).train()
    for command in (["test", *arguments], ["export", *arguments, str(tmp_path / "model.onnx")]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 0
    assert (tmp_path / "model.onnx").is_file()
