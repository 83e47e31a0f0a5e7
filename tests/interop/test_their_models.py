"""mmpretrain's multi-task model with this package's hook, and configs that cross the registries."""

import copy
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

mmpretrain = pytest.importorskip("mmpretrain")

from mmpretrain.registry import HOOKS, MODELS, RUNNERS  # noqa: E402

from trn_plugin import load_config  # noqa: E402
from trn_plugin.checkpoints import load_checkpoint_file  # noqa: E402
from trn_plugin.engine import SafeRunner  # noqa: E402

TASKS = dict(shade=3, side=2)
HIDDEN = {task: f"head.task_heads.{task}.layers.0" for task in TASKS}
OUTPUT = {task: f"head.task_heads.{task}.layers.1.fc" for task in TASKS}
HOOK = dict(
    type="trn_plugin.TaskRelationLossHook",
    weights=dict(hidden=0.1, output=0.1),
    features=dict(hidden=HIDDEN, output=OUTPUT),
    labels={task: dict(path=f"{task}.gt_label", num_classes=n) for task, n in TASKS.items()},
    relations=[("shade", "side")],
    momentum=0.9,
    min_samples_per_dim=1,
)
TOY = "trn_plugin::toy/trn-output_test-resnet_toy.py"


def heads(width):
    def head(classes):
        options = dict(num_classes=classes, in_channels=width, mid_channels=[8])
        return dict(type="StackedLinearClsHead", **options)

    return dict(type="MultiTaskHead", task_heads={task: head(n) for task, n in TASKS.items()})


def their_config(pictures, work_dir, **options):
    """A config of mmpretrain's own, as its documentation writes one."""
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="RandomResizedCrop", scale=32),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackMultiTaskInputs", multi_task_fields=["gt_label"]),
    ]
    source = dict(data_root=str(pictures), ann_file="labels.json", pipeline=pipeline)
    loader = dict(
        batch_size=16,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=True),
        dataset=dict(type="MultiTaskDataset", **source),
        collate_fn=dict(type="default_collate"),
    )
    accuracy = [dict(type="Accuracy", topk=(1,))]
    config = dict(
        default_scope="mmpretrain",
        custom_imports=dict(imports=["trn_plugin.registry"], allow_failed_imports=False),
        model=dict(
            type="ImageClassifier",
            backbone=dict(type="ResNet", depth=18, base_channels=8, stem_channels=8),
            neck=dict(type="GlobalAveragePooling"),
            head=heads(64),
            data_preprocessor=dict(mean=[0] * 3, std=[255] * 3, to_rgb=True),
        ),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        val_dataloader=copy.deepcopy(loader),
        val_cfg=dict(),
        val_evaluator=dict(type="MultiTasksMetric", task_metrics=dict.fromkeys(TASKS, accuracy)),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.05)),
        custom_hooks=[copy.deepcopy(HOOK)],
        work_dir=str(work_dir),
        randomness=dict(seed=0),
        log_level="WARNING",
        experiment_name=str(work_dir).replace("/", "_"),
    )
    return Config({**config, **options})


@pytest.fixture(autouse=True)
def their_scope():
    init_default_scope("mmpretrain")


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


def small_toy(folder, work_dir):
    options = {"train_cfg.max_epochs": 1, "input_size": 32, "work_dir": str(work_dir)}
    options["custom_hooks.0.allow_undersampled"] = True
    options["log_level"] = "WARNING"
    for part in ("train", "val", "test"):
        loader = dict(num_workers=0, persistent_workers=False, batch_size=16)
        sizes = dict(data_root=str(folder / "faces"), train_size=48, val_size=8, test_size=8)
        loader |= {f"dataset.{key}": value for key, value in sizes.items()}
        options |= {f"{part}_dataloader.{key}": value for key, value in loader.items()}
    return load_config(TOY, options)


def test_their_registries_build_our_config(tmp_path):
    config = small_toy(tmp_path, tmp_path / "work")
    assert isinstance(HOOKS.build(dict(type="trn_plugin.GradientNormHook")), object)
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
    (tmp_path / "theirs.json").write_text(json.dumps(own, default=list))
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
