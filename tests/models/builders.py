"""Small models and batches for the tests."""

import torch
from mmengine.config import ConfigDict

from trn_plugin.registry import MODELS
from trn_plugin.structures import MultiTaskDataSample

NAME = "test_resnet"


def model_config(
    name=NAME,
    shared=-1,
    neck=True,
    size=64,
    heads=None,
    task_weighting=None,
    backbone=None,
    **neck_options,
):
    config = dict(
        type="MultiTaskModel",
        backbone=backbone
        or dict(type="TimmTrunk", model_name=name, shared_stages=shared, img_size=size),
        heads=heads
        or dict(
            landmarks=dict(type="LandmarkHead", num_points=5),
            pose=dict(type="ClassificationHead", num_classes=5),
        ),
    )
    if task_weighting is not None:
        config["task_weighting"] = task_weighting
    if neck:
        options = dict(relations=[("landmarks", "pose")], momentum=0.9)
        config["neck"] = dict(type="TaskRelationNeck", **(options | neck_options))
    return ConfigDict(config)


def build(*args, seed=0, **kwargs):
    torch.manual_seed(seed)
    return MODELS.build(model_config(*args, **kwargs))


def batch(n=8, size=64, seed=0, missing=()):
    """Pictures and samples; ``missing`` holds (row, task) without label."""
    g = torch.Generator().manual_seed(seed)
    samples = []
    for row in range(n):
        gt = dict(landmarks=torch.rand(5, 2, generator=g), pose=torch.tensor(row % 5))
        samples.append(
            MultiTaskDataSample(gt={t: v for t, v in gt.items() if (row, t) not in missing})
        )
    return torch.randn(n, 3, size, size, generator=g), samples
