"""The head and the metric of ordered levels."""

import numpy as np
import torch
import torch.nn.functional as F
from age_task import OrdinalTask

from trn_plugin.evaluation import TaskMetric
from trn_plugin.models.heads import TaskHead
from trn_plugin.registry import METRICS, MODELS


@MODELS.register_module()
class OrdinalHead(TaskHead):
    """Binary cross entropy for each level above the first."""

    task_type = OrdinalTask

    def __init__(self, num_levels, in_features, **kwargs):
        super().__init__(num_levels, in_features, **kwargs)

    def sample_loss(self, output, targets):
        return F.binary_cross_entropy_with_logits(output, targets, reduction="none").mean(1)

    def activate(self, output):
        return torch.sigmoid(output.float())

    predict = activate


@METRICS.register_module()
class LevelError(TaskMetric):
    """Mean distance between the predicted and the true level."""

    task_type = OrdinalTask

    def compute_metrics(self, results):
        known = [abs((p > 0.5).sum() - label) for p, label in results if label is not None]
        return {"level_error": float(np.mean(known)) if known else float("nan")}
