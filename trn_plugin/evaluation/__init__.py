"""Metrics for heterogeneous tasks, one a file, registered in ``METRICS``."""

from trn_plugin.evaluation.accuracy import Accuracy
from trn_plugin.evaluation.attribute_metric import AttributeMetric
from trn_plugin.evaluation.batches import BatchEvaluator
from trn_plugin.evaluation.mean_absolute_error import MeanAbsoluteError
from trn_plugin.evaluation.normalized_mean_error import NormalizedMeanError
from trn_plugin.evaluation.task_metric import TaskMetric
from trn_plugin.evaluation.task_similarity import TaskSimilarity

__all__ = [
    "Accuracy",
    "AttributeMetric",
    "BatchEvaluator",
    "MeanAbsoluteError",
    "NormalizedMeanError",
    "TaskMetric",
    "TaskSimilarity",
]
