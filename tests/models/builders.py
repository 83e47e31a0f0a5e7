"""Small models and batches for the tests."""

import timm
import torch
from mmengine.config import ConfigDict

from trn_plugin.models import TimmTrunk
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


def trunk(name=NAME, shared=-1, tasks=("a", "b"), size=64, **options):
    torch.manual_seed(0)
    return TimmTrunk(name, shared_stages=shared, tasks=tasks, img_size=size, **options)


def uncut(name, size=64, **options):
    """timm's model with the weights of ``trunk(name)``."""
    torch.manual_seed(0)
    if timm.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = size
    return timm.create_model(name, num_classes=0, **options)
