import math

import numpy as np
import pytest
import torch

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation import MeanAbsoluteError
from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample
from trn_plugin.tasks import ValueTask

META = dict(tasks=dict(size=dict(kind="values", names=("weight", "body length"))))


def measure(pairs, meta=META):
    metric = MeanAbsoluteError("size")
    metric.dataset_meta = meta
    for pred, label in pairs:
        gt = {} if label is None else {"size": torch.tensor(label)}
        metric.process(None, [dict(gt=gt, pred={"size": torch.tensor(pred)})])
    return metric.evaluate(len(pairs))


def test_values_by_hand():
    pairs = [([1.0, 10], [2.0, 10]), ([2.0, 10], [4.0, 40]), ([3.0, 10], [9.0, 10])]
    assert measure(pairs) == pytest.approx(
        {
            "size/MAE_weight": 3,
            "size/baseline_MAE_weight": 7 / 3,
            "size/MAE_body_length": 10,
            "size/baseline_MAE_body_length": 10,
        }
    )
    assert measure([*pairs, ([5.0, 5.0], None)]) == measure(pairs[::-1])


def test_a_single_quantity_has_no_named_keys():
    meta = dict(tasks=dict(size=dict(kind="values", names=("size",))))
    assert measure([([1.5], [1.0])], meta) == {"size/MAE": 0.5, "size/baseline_MAE": 0}


def test_the_median_is_the_best_constant():
    rng = np.random.default_rng(0)
    truth = rng.exponential(size=101)
    meta = dict(tasks=dict(size=dict(kind="values", names=("size",))))
    for constant in (truth.mean(), float(np.median(truth)), 0.3):
        found = measure([([constant], [t]) for t in truth.tolist()], meta)
        assert found["size/baseline_MAE"] <= found["size/MAE"] + 1e-6


def test_samples_and_batches_keep_the_differences_of_large_numbers():
    tasks = {"size": ValueTask("size", dict(names=("size",)))}
    labels = [1e12 + 1000 * i for i in range(5)]
    gt = [{"size": torch.tensor([label], dtype=torch.float64)} for label in labels]
    samples = [MultiTaskDataSample(gt=each) for each in gt]
    batch = MultiTaskBatch.of(samples, tasks).with_fields(pred={"size": torch.full((5, 1), 1e12)})
    found = []
    for given in (batch, [sample.to_dict() for sample in batch.give_to(samples)]):
        metric = MeanAbsoluteError("size")
        metric.process(None, given)
        found.append(metric.evaluate(5))
    assert found[0] == found[1]
    assert found[0]["size/baseline_MAE"] == 1200


def test_undefined_errors_are_nan_with_a_warning(logged):
    assert all(math.isnan(v) for v in measure([([1.0, 2], None)]).values())
    assert "none of 1 pictures has a label" in logged()
    found = measure([([math.nan, 2], [1.0, 2])])
    assert math.isnan(found["size/MAE_weight"])
    assert found["size/MAE_body_length"] == 0
    assert "1 predictions are not finite" in logged()


def test_a_task_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="expected a task of kind 'values'"):
        measure([], dict(tasks=dict(size=dict(kind="class", classes=("a", "b")))))
