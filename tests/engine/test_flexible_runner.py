"""MMEngine's FlexibleRunner, on one device."""

import pytest
from mmengine.runner import FlexibleRunner

from trn_plugin import build_runner, load_config
from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.errors import ConfigError


def toy(folder):
    options = {"runner_type": "FlexibleRunner", "work_dir": str(folder / "work"), "input_size": 32}
    options |= {"train_cfg.max_epochs": 1}
    options |= {"custom_hooks.0.min_samples_per_dim": 0, "log_level": "ERROR"}
    for part in ("train", "val", "test"):
        loader = dict(num_workers=0, persistent_workers=False, batch_size=8)
        sizes = dict(data_root=str(folder / "faces"), train_size=24, val_size=8, test_size=8)
        loader |= {f"dataset.{k}": v for k, v in dict(sizes, serialize_data=False).items()}
        options |= {f"{part}_dataloader.{key}": value for key, value in loader.items()}
    config = load_config("trn_plugin::toy/trn-output_test-resnet_toy.py", options)
    del config.default_hooks["similarity_plot"]
    return config


def test_it_trains_and_tests_our_config(tmp_path):
    runner = build_runner(toy(tmp_path))
    assert type(runner) is FlexibleRunner
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert scalars["train/loss_relation_output"].current() > 0
    saved = load_checkpoint_file(tmp_path / "work/epoch_1.pth")["state_dict"]
    assert saved.keys() == runner.model.state_dict().keys()
    assert runner.test()["landmarks/NME"] > 0


def test_sharding_is_refused(tmp_path):
    for kind in ("FSDPStrategy", "DeepSpeedStrategy"):
        config = toy(tmp_path)
        config.strategy = dict(type=kind)
        with pytest.raises(ConfigError, match=f"strategy.type: expected .*, found {kind}"):
            build_runner(config)
