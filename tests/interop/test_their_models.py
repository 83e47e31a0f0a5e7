"""mmpretrain's multi-task model trains with this package's hook, and with its trunk."""

import pytest
import timm
import torch
from jobs import their_config
from mmpretrain.registry import RUNNERS

from trn_plugin.checkpoints import load_checkpoint_file


def losses(runner):
    scalars = runner.message_hub.log_scalars
    return {k: list(scalars[k].data[0]) for k in scalars if "loss" in k or "relation" in k}


@pytest.mark.parametrize("runner_type", ["Runner", "trn_plugin.SafeRunner"])
def test_their_multi_task_model_trains_with_the_relation_hook(pictures, tmp_path, runner_type):
    runner = RUNNERS.build(their_config(pictures, tmp_path / "with", runner_type=runner_type))
    runner.train()
    assert not any("relation" in name for name in runner.model.state_dict())
    found = losses(runner)
    for level in ("hidden", "output", "label"):
        assert all(0 <= tau <= 1 for tau in found[f"train/relation/{level}/shade-side"])
    assert max(found["train/loss_relation_output"]) > 0
    plain = their_config(pictures, tmp_path / "without", runner_type=runner_type, custom_hooks=[])
    without = RUNNERS.build(plain)
    without.train()
    assert losses(without)["train/shade_loss"][0] == found["train/shade_loss"][0]
    assert losses(without)["train/shade_loss"][-1] != found["train/shade_loss"][-1]


def test_their_model_resumes_exactly(pictures, tmp_path):
    kind = "trn_plugin.SafeRunner"
    whole = RUNNERS.build(their_config(pictures, tmp_path / "whole", runner_type=kind))
    whole.train()
    once = dict(by_epoch=True, max_epochs=1, val_interval=1)
    first = their_config(pictures, tmp_path / "parts", runner_type=kind, train_cfg=once)
    RUNNERS.build(first).train()
    name = f"{tmp_path}_second"
    second = their_config(
        pictures, tmp_path / "parts", runner_type=kind, resume=True, experiment_name=name
    )
    resumed = RUNNERS.build(second)
    resumed.train()
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    saved = load_checkpoint_file(tmp_path / "parts/epoch_2.pth")
    assert saved["relation_state"]["relations"] == ["shade-side"]


def test_the_model_of_the_guide(pictures, tmp_path, page):
    (names,) = (names for names in page if "custom_hooks" in names)
    config = their_config(pictures, tmp_path, train_cfg=dict(by_epoch=True, max_epochs=1))
    config.model, config.custom_hooks = names["model"], names["custom_hooks"]
    config.model["data_preprocessor"] = dict(mean=[0] * 3, std=[255] * 3, to_rgb=True)
    config.custom_hooks[0]["allow_undersampled"] = True
    runner = RUNNERS.build(config)
    runner.train()
    assert 0 <= losses(runner)["train/relation/hidden/shade-side"][-1] <= 1


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_our_trunk_in_their_config(pictures, tmp_path, name):
    sized = dict(img_size=32) if "vit" in name else {}
    trunk = dict(type="trn_plugin.TimmTrunk", model_name=name, out_indices=(-1,), frozen_stages=1)
    width = timm.create_model(name).num_features
    once = dict(by_epoch=True, max_epochs=1, val_interval=1)
    config = their_config(pictures, tmp_path, {**trunk, **sized}, width, train_cfg=once)
    runner = RUNNERS.build(config)
    start = {name: value.clone() for name, value in runner.model.named_parameters()}
    runner.train()
    for name, value in runner.model.named_parameters():
        if name.endswith("weight"):
            assert torch.equal(value, start[name]) != value.requires_grad, name
    assert any(not value.requires_grad for value in runner.model.parameters())
    assert max(losses(runner)["train/loss_relation_output"]) > 0
