"""Data sets with the labels of several tasks, their samplers and transforms."""

from trn_plugin.datasets.base import MultiTaskDataset
from trn_plugin.datasets.celeba import CelebA
from trn_plugin.datasets.collate import multi_task_collate
from trn_plugin.datasets.draws import SampleDraw
from trn_plugin.datasets.mixed import MixedDataset, ShareSampler
from trn_plugin.datasets.mtfl import MTFL
from trn_plugin.datasets.sampler import DrawSampler, NumberedDraws
from trn_plugin.datasets.tabular import TabularMultiTask
from trn_plugin.datasets.toy_faces import ToyFaces
from trn_plugin.datasets.transforms import (
    Albumentations,
    CropResize,
    FaceBox,
    LoadCrop,
    LoadImage,
    PackMultiTaskInputs,
    RandomFlip,
    RegionBox,
)
from trn_plugin.datasets.wrapped import DrawnDataset

__all__ = [
    "MTFL",
    "Albumentations",
    "CelebA",
    "CropResize",
    "DrawSampler",
    "DrawnDataset",
    "FaceBox",
    "LoadCrop",
    "LoadImage",
    "MixedDataset",
    "MultiTaskDataset",
    "NumberedDraws",
    "PackMultiTaskInputs",
    "RandomFlip",
    "RegionBox",
    "SampleDraw",
    "ShareSampler",
    "TabularMultiTask",
    "ToyFaces",
    "multi_task_collate",
]
