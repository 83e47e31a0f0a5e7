"""Small trainings: mmpretrain's multi-task model, and this package's toy job."""

import copy

from mmengine.config import Config

from trn_plugin import load_config

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
NARROW_RESNET = dict(type="ResNet", depth=18, base_channels=8, stem_channels=8)
TOY = "trn_plugin::toy/trn-output_test-resnet_toy.py"


def heads(width):
    def head(classes):
        options = dict(num_classes=classes, in_channels=width, mid_channels=[8])
        return dict(type="StackedLinearClsHead", **options)

    return dict(type="MultiTaskHead", task_heads={task: head(n) for task, n in TASKS.items()})


def their_config(pictures, work_dir, backbone=None, width=64, **options):
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
            backbone=backbone or NARROW_RESNET,
            neck=dict(type="GlobalAveragePooling"),
            head=heads(width),
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


def small_toy(folder, work_dir, **options):
    options = {"train_cfg.max_epochs": 1, **options, "input_size": 32, "work_dir": str(work_dir)}
    options["custom_hooks.0.allow_undersampled"] = True
    options["log_level"] = "WARNING"
    for part in ("train", "val", "test"):
        loader = dict(num_workers=0, persistent_workers=False, batch_size=16)
        sizes = dict(data_root=str(folder / "faces"), train_size=48, val_size=8, test_size=8)
        loader |= {f"dataset.{key}": value for key, value in sizes.items()}
        options |= {f"{part}_dataloader.{key}": value for key, value in loader.items()}
    return load_config(TOY, options)
