"""Transforms from a record to the network's input, one class per step."""

from trn_plugin.datasets.transforms.albumentations import Albumentations
from trn_plugin.datasets.transforms.crop_resize import Crop, CropResize, resize
from trn_plugin.datasets.transforms.face_box import FaceBox
from trn_plugin.datasets.transforms.load_crop import LoadCrop
from trn_plugin.datasets.transforms.load_image import LoadImage
from trn_plugin.datasets.transforms.pack import PackMultiTaskInputs
from trn_plugin.datasets.transforms.random_flip import RandomFlip
from trn_plugin.datasets.transforms.region_box import RegionBox

__all__ = [
    "Albumentations",
    "Crop",
    "CropResize",
    "FaceBox",
    "LoadCrop",
    "LoadImage",
    "PackMultiTaskInputs",
    "RandomFlip",
    "RegionBox",
    "resize",
]
