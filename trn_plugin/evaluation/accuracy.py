"""Accuracy of a class task, the "Acc." of the paper's Table 1."""

from __future__ import annotations

import numpy as np
from mmengine.logging import print_log
from sklearn.metrics import recall_score

from trn_plugin.evaluation.task_metric import TaskMetric, warn
from trn_plugin.registry import METRICS
from trn_plugin.tasks import ClassTask

__all__ = ["Accuracy"]

NONFINITE = -1


@METRICS.register_module()
class Accuracy(TaskMetric):
    """Share of pictures whose most probable class is the true one, in percent.

    Pictures without a label are left out; if none has one, every value is NaN (with a warning). A
    non-finite prediction counts as wrong (with a warning).

    Keys: ``accuracy``; with ``balanced``, ``balanced_accuracy``, the mean recall over the classes
    that occur among the labels (the log lists absent classes).

    Args:
        task: Name of the class task, and the keys' prefix.
        balanced: Also report the balanced accuracy.

    Raises:
        ConfigError: the task is unknown or of another kind.
    """

    task_type = ClassTask
    directions = {"accuracy": "greater", "balanced_accuracy": "greater"}

    def __init__(self, task: str, balanced: bool = False, **kwargs) -> None:
        super().__init__(task, **kwargs)
        self.balanced = balanced

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Percentages by key; NaN where no picture is labelled."""
        name = f"{self.prefix}/accuracy"
        labelled = [(pred, label) for pred, label in results if label is not None]
        keys = ["accuracy", "balanced_accuracy"] if self.balanced else ["accuracy"]
        if not labelled:
            warn(f"{name} is undefined: none of {len(results)} pictures has a label")
            return dict.fromkeys(keys, float("nan"))

        probabilities = np.stack([pred for pred, _ in labelled])
        truth = np.array([int(label) for _, label in labelled])
        finite = np.isfinite(probabilities).all(axis=1)
        predicted = np.where(finite[:, None], probabilities, 0).argmax(axis=1)
        predicted[~finite] = NONFINITE
        if not finite.all():
            warn(f"{name}: {(~finite).sum()} predictions are not finite; they count as wrong")

        metrics = {"accuracy": 100 * float(np.mean(predicted == truth))}
        if self.balanced:
            classes = self._names(self.task, probabilities.shape[1])
            present = np.unique(truth)
            recall = recall_score(
                truth, predicted, labels=present, average="macro", zero_division=0.0
            )
            metrics["balanced_accuracy"] = 100 * float(recall)
            if absent := [c for i, c in enumerate(classes) if i not in present]:
                print_log(
                    f"{self.prefix}/balanced_accuracy: mean over {present.size} classes, "
                    f"no picture of {', '.join(absent)}",
                    logger="current",
                )
        return metrics
