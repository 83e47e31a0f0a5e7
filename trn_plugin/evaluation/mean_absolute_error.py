"""Mean absolute error of quantities."""

from __future__ import annotations

import numpy as np

from trn_plugin.evaluation.task_metric import TaskMetric, key_name, warn
from trn_plugin.registry import METRICS
from trn_plugin.tasks import ValueTask

__all__ = ["MeanAbsoluteError"]


@METRICS.register_module()
class MeanAbsoluteError(TaskMetric):
    """Mean absolute error of a task of kind 'values', in the labels' units.

    Pictures without a label are left out. A value is NaN (with a warning) if no picture has a label
    or a prediction is not finite.

    Keys: ``MAE`` and ``baseline_MAE``, the error of always predicting the median label; for a task
    of several quantities ``MAE_<name>`` and ``baseline_MAE_<name>``.

    Args:
        task: Name of the task, and the keys' prefix.

    Raises:
        ConfigError: the task is unknown or of another kind.
    """

    task_type = ValueTask
    directions = {"MAE": "less"}

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Errors by key; NaN where no picture is labelled."""
        names = self._names(self.task, results[0][0].size if results else 1)
        labelled = [(pred, label) for pred, label in results if label is not None]
        error = median = np.full(len(names), np.nan)
        if labelled:
            pred = np.array([pred for pred, _ in labelled], dtype=np.float64)
            truth = np.array([label for _, label in labelled], dtype=np.float64)
            truth = truth.reshape(pred.shape)
            error = np.abs(pred - truth).mean(axis=0)
            error[~np.isfinite(error)] = np.nan
            median = np.abs(np.median(truth, axis=0) - truth).mean(axis=0)
            if nonfinite := int((~np.isfinite(pred)).any(axis=1).sum()):
                warn(f"{self.prefix}/MAE is undefined: {nonfinite} predictions are not finite")
        else:
            warn(f"{self.prefix}/MAE is undefined: none of {len(results)} pictures has a label")
        metrics = {}
        for name, own, constant in zip(names, error, median, strict=True):
            suffix = "" if len(names) == 1 else f"_{key_name(name)}"
            metrics[f"MAE{suffix}"] = float(own)
            metrics[f"baseline_MAE{suffix}"] = float(constant)
        return metrics
