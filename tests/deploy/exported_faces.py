"""A small model with random weights, to be exported, and pictures for it."""

import cv2
import numpy as np
import torch
from mmengine.registry import DefaultScope

from trn_plugin.registry import MODELS

SIZE = (48, 64)
POSES = ("left profile", "left", "frontal", "right", "right profile")
POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
DATASET_TASKS = {
    "landmarks": dict(kind="landmarks", names=POINTS, flip=(1, 0, 2, 4, 3), interocular=(0, 1)),
    "pose": dict(kind="class", classes=POSES, flip=(4, 3, 2, 1, 0)),
}


def build(shared_stages=-1, model_name="test_resnet", heads=(), **options):
    """A model that differs between eval and training mode, and whose outputs vary."""
    torch.manual_seed(0)
    config = dict(
        type="MultiTaskModel",
        backbone=dict(
            type="TimmTrunk",
            model_name=model_name,
            pretrained=False,
            shared_stages=shared_stages,
            img_size=SIZE,
            **options,
        ),
        heads=dict(
            landmarks=dict(type="LandmarkHead", num_points=5),
            pose=dict(type="ClassificationHead", num_classes=5),
            smile=dict(type="AttributeHead", num_attributes=1),
            **dict(heads),
        ),
        neck=None,
    )
    with DefaultScope.overwrite_default_scope("trn_plugin"):
        model = MODELS.build(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.7, 1.3)
    for head in model.heads.values():
        torch.nn.init.normal_(head.fc.weight, std=0.2)
    return model


def picture(height, width, seed=0):
    """Colours that survive resizing, with noise that does not."""
    rng = np.random.default_rng(seed)
    colours = cv2.resize(rng.uniform(0, 255, (4, 4, 3)), (width, height))
    noisy = colours + rng.normal(0, 20, colours.shape)
    return noisy.clip(0, 255).astype(np.uint8)
