"""mmcv's and mmpretrain's transforms in this package's pipeline."""

import mmpretrain.datasets  # noqa: F401  # registers mmcv's transforms too
import numpy as np
import pytest
from mmengine.registry import init_default_scope

from trn_plugin.datasets import TabularMultiTask
from trn_plugin.errors import ConfigError, TrnPluginError

TO_RGB = dict(type="Normalize", mean=[0] * 3, std=[1] * 3, to_rgb=True)
LOAD = [dict(type="mmcv.LoadImageFromFile"), TO_RGB]
CROP = [dict(type="RegionBox", training=False), dict(type="CropResize")]
PACK = [dict(type="PackMultiTaskInputs")]
LABELS = dict(shade=dict(kind="class", classes=["dark", "grey", "light"]), side=dict(kind="values"))
POINTS = dict(point=dict(kind="landmarks", points=dict(p=("x", "y")), flip_pairs=[]))

THEIRS = [
    dict(type="RandomResizedCrop", scale=16),
    dict(type="RandomCrop", crop_size=16),
    dict(type="EfficientNetRandomCrop", scale=16),
    dict(type="EfficientNetCenterCrop", crop_size=16),
    dict(type="ResizeEdge", scale=16),
    dict(type="RandomFlip", prob=1.0),
    dict(type="RandomErasing", erase_prob=1.0),
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type="Lighting", eigval=[1.0] * 3, eigvec=np.eye(3).tolist()),
    dict(type="GaussianBlur", radius=1.0, prob=1.0),
    dict(type="Equalize", prob=1.0),
    dict(type="Posterize", bits=4, prob=1.0),
    dict(type="Albumentations", transforms=[dict(type="Blur", p=1.0)], keymap=dict(img="image")),
    dict(type="AutoAugment", policies="imagenet", _scope_="mmpretrain"),
    dict(
        type="RandAugment",
        policies="timm_increasing",
        num_policies=2,
        magnitude_level=9,
        _scope_="mmpretrain",
    ),
    dict(type="Rotate", angle=30.0, prob=1.0),
    dict(type="Shear", magnitude=0.3, prob=1.0),
    dict(type="mmcv.Resize", scale=(16, 12)),
    dict(type="mmcv.CenterCrop", crop_size=16),
    dict(type="mmcv.Pad", size=(40, 40)),
    dict(type="mmcv.RandomGrayscale", prob=1.0, keep_channels=True),
    dict(type="mmcv.RandomChoiceResize", scales=[(16, 16), (20, 12)]),
]
MOVE = (
    *("RandomResizedCrop", "RandomCrop", "EfficientNetRandomCrop", "EfficientNetCenterCrop"),
    *("ResizeEdge", "RandomFlip", "AutoAugment", "RandAugment", "Rotate", "Shear"),
    *("Resize", "CenterCrop", "Pad", "RandomChoiceResize"),
)
"""Of these, what moves points."""


@pytest.fixture
def dataset(pictures):
    init_default_scope("trn_plugin")

    def make(pipeline, labels=LABELS):
        steps = [dict(step) for step in pipeline]
        return TabularMultiTask(str(pictures), "labels.csv", labels, pipeline=steps, input_size=32)

    return make


def of_theirs(step):
    name = step["type"]
    return {**step, "type": name.removeprefix("mmcv.") if "." in name else f"mmpretrain.{name}"}


def test_their_loader_gives_what_ours_gives(dataset):
    ours, theirs = (dataset([*load, *CROP, *PACK])[3] for load in ([dict(type="LoadImage")], LOAD))
    assert ours["inputs"].equal(theirs["inputs"])
    with pytest.raises(ConfigError, match="LoadImageFromFile reads BGR, where RGB is expected"):
        dataset([LOAD[0], *CROP, *PACK])


@pytest.mark.parametrize("step", THEIRS, ids=lambda step: step["type"])
def test_a_transform_works_or_says_in_one_line_what_is_missing(dataset, step):
    """Before the crop, with labels that do not move with the picture; with points it is refused."""
    pipeline = [LOAD[0], of_theirs(step), TO_RGB, *CROP, *PACK]
    sample = dataset(pipeline)[2]
    assert sample["inputs"].shape == (3, 32, 32)
    assert sample["data_samples"].gt["shade"] in range(3)
    name = step["type"].rpartition(".")[2]
    if name in MOVE:
        with pytest.raises(TrnPluginError, match="follow") as error:
            dataset(pipeline, POINTS)[2]
        assert "\n" not in str(error.value)
    else:
        assert dataset(pipeline, POINTS)[2]["data_samples"].gt["point"].shape == (1, 2)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([*LOAD, dict(type="CropResize"), *PACK], "CropResize: put it after RegionBox"),
        ([*CROP, *PACK], "CropResize: put it after LoadImage"),
        ([*LOAD, *PACK], "PackMultiTaskInputs: put it after CropResize"),
        ([*LOAD, *CROP, dict(type="ImageToTensor", keys=["img"]), *PACK], r"expected a picture"),
        ([*LOAD, *CROP, dict(type="mmpretrain.ColorJitter", hue=0.1), *PACK], "only support uint8"),
    ],
)
def test_what_is_missing(dataset, steps, message):
    with pytest.raises(TrnPluginError, match=message) as error:
        dataset(steps)[2]
    assert "\n" not in str(error.value)


def test_the_pipeline_of_the_guide(dataset, page):
    (pipeline,) = (names["train_pipeline"] for names in page if "train_pipeline" in names)
    assert dataset(pipeline)[2]["inputs"].shape == (3, 32, 32)
    with pytest.raises(ConfigError, match="AutoAugment turns the picture, and point would not"):
        dataset(pipeline, POINTS)
