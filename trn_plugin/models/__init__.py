"""The multi-task model: trunk, heads and task relation neck."""

from trn_plugin.models.data_preprocessor import MultiTaskDataPreprocessor
from trn_plugin.models.heads import (
    AttributeHead,
    ClassificationHead,
    HeatmapLandmarkHead,
    LandmarkHead,
    RegressionHead,
)
from trn_plugin.models.multi_task import MultiTaskModel
from trn_plugin.models.neck import TaskRelationNeck
from trn_plugin.models.trunk import TimmTrunk
from trn_plugin.models.weighting import DynamicWeightAverage, GradNorm, UncertaintyWeighting

__all__ = [
    "AttributeHead",
    "ClassificationHead",
    "DynamicWeightAverage",
    "GradNorm",
    "HeatmapLandmarkHead",
    "LandmarkHead",
    "MultiTaskDataPreprocessor",
    "MultiTaskModel",
    "RegressionHead",
    "TaskRelationNeck",
    "TimmTrunk",
    "UncertaintyWeighting",
]
