"""Error rate and average precision of binary attributes, the columns of the paper's Table 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.logging import print_log
from sklearn.metrics import average_precision_score

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.task_metric import (
    Samples,
    TaskMetric,
    key_name,
    listed,
    table,
    warn,
)
from trn_plugin.registry import METRICS
from trn_plugin.tasks import AttributeTask

__all__ = ["AttributeMetric"]


@METRICS.register_module()
class AttributeMetric(TaskMetric):
    """Error rate and mean average precision over binary attributes, in percent.

    Missing (or NaN) labels are left out; without any label a value is NaN (with a warning). Average
    precision is undefined for an attribute with only positive or only negative labels; ``mAP`` and
    ``prior_mAP`` leave it out, and the log names it. A non-finite prediction counts as wrong and
    makes ``mAP`` NaN (with a warning).

    Keys: ``error_rate``, mean over attributes, at threshold 0.5; ``mAP``, mean of scikit-learn's
    average precision; and the baselines ``majority_error_rate``, of always predicting the more
    frequent value of each attribute, and ``prior_mAP``, of a random ranking, the mean share of
    positives. With ``per_attribute`` also ``error_rate_<name>`` and ``AP_<name>``, and a table of
    all four in the log.

    Args:
        task: Name of the attribute task, and the keys' prefix; or names of several tasks, whose
            attributes are concatenated (prefix ``attributes``).
        per_attribute: Also report each attribute by name.

    Raises:
        ConfigError: a task is unknown or of another kind.
    """

    task_type = AttributeTask
    directions = {"mAP": "greater", "AP": "greater", "error_rate": "less"}

    def __init__(
        self, task: str | Sequence[str] = "attributes", per_attribute: bool = False, **kwargs
    ) -> None:
        single = isinstance(task, str)
        super().__init__(task if single else "attributes", **kwargs)
        self.parts = (task,) if single else tuple(task)
        if not self.parts:
            raise ConfigError("AttributeMetric.task: expected the names of one or more tasks")
        self.per_attribute = per_attribute

    @property
    def predicted_tasks(self) -> tuple[str, ...]:
        """See :class:`TaskMetric`."""
        return self.parts

    def process(self, data_batch: object, data_samples: Samples) -> None:
        """Keep (probabilities, labels or NaN) of each picture."""
        if not len(data_samples):
            return
        found, labels = [], []
        for part in self.parts:
            found.append(np.stack(self.predictions(data_samples, part)))
            missing = np.full(found[-1].shape[1], np.nan)
            own = self.labels(data_samples, part)
            labels.append([missing if x is None else x.reshape(-1) for x in own])
        self.results.extend(zip(np.hstack(found), np.hstack(labels), strict=True))

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Percentages by key; NaN where there is no label."""
        labelled = [(pred, label) for pred, label in results if not np.isnan(label).all()]
        if not labelled:
            warn(
                f"{self.prefix}/error_rate is undefined: none of {len(results)} pictures has labels"
            )
        described = [name for task in self.described.values() for name in task.names]
        count = results[0][0].size if results else len(described)
        names = described or [str(i) for i in range(count)]
        probabilities = np.array([pred for pred, _ in labelled]).reshape(len(labelled), count)
        truth = np.array([label for _, label in labelled]).reshape(len(labelled), count)

        error, precision, majority, prior = (np.full(count, np.nan) for _ in range(4))
        one_sided, nonfinite = [], []
        for i, name in enumerate(names):
            known = ~np.isnan(truth[:, i])
            positive, score = truth[known, i] > 0.5, probabilities[known, i]
            if not positive.size:
                continue
            finite = np.isfinite(score)
            error[i] = np.mean(((score > 0.5) != positive) | ~finite)
            majority[i] = min(positive.mean(), 1 - positive.mean())
            if positive.all() or not positive.any():
                one_sided.append(name)
                continue
            if not finite.all():
                nonfinite.append(name)
                continue
            precision[i] = average_precision_score(positive, score)
            prior[i] = positive.mean()
        if one_sided:
            warn(
                f"{self.prefix}/mAP leaves out attributes with a single value: {listed(one_sided)}"
            )
        if nonfinite:
            warn(f"{self.prefix}/mAP is undefined: non-finite predictions of {listed(nonfinite)}")

        metrics = {
            "error_rate": _mean_percent(error),
            "mAP": float("nan") if nonfinite else _mean_percent(precision),
            "majority_error_rate": _mean_percent(majority),
            "prior_mAP": _mean_percent(prior),
        }
        if self.per_attribute:
            columns = (error, majority, precision, prior)
            for i, name in enumerate(names):
                metrics[f"error_rate_{key_name(name)}"] = 100 * float(error[i])
                metrics[f"AP_{key_name(name)}"] = 100 * float(precision[i])
            rows = [[name, *map(_percent, row)] for name, *row in zip(names, *columns, strict=True)]
            header = ["attribute", "error rate", "majority", "AP", "prior"]
            print_log(f"{self.prefix}, in percent\n{table(header, rows)}", logger="current")
        return metrics


def _percent(share: float) -> str:
    return "undefined" if np.isnan(share) else f"{100 * share:.2f}"


def _mean_percent(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return 100 * float(values.mean()) if values.size else float("nan")
