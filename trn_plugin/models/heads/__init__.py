"""Heads: a task's last layer, loss and predictions."""

from trn_plugin.models.heads.attribute import AttributeHead
from trn_plugin.models.heads.base import TaskHead
from trn_plugin.models.heads.classification import ClassificationHead
from trn_plugin.models.heads.heatmap import HeatmapLandmarkHead
from trn_plugin.models.heads.landmark import LandmarkHead
from trn_plugin.models.heads.regression import RegressionHead

__all__ = [
    "AttributeHead",
    "ClassificationHead",
    "HeatmapLandmarkHead",
    "LandmarkHead",
    "RegressionHead",
    "TaskHead",
]
