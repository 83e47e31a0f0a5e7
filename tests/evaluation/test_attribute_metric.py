import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation import AttributeMetric

NAMES = ("Bald", "5 o Clock Shadow", "Young")
META = dict(tasks=dict(attributes=dict(kind="attributes", names=NAMES)))


def samples(truth, probabilities):
    return [
        dict(
            gt={} if t is None else {"attributes": torch.as_tensor(t, dtype=torch.float32)},
            pred={"attributes": torch.as_tensor(p, dtype=torch.float32)},
        )
        for t, p in zip(truth, probabilities, strict=True)
    ]


def measure(truth, probabilities, meta=META, **kwargs):
    metric = AttributeMetric(**kwargs)
    metric.dataset_meta = meta
    metric.process(None, samples(truth, probabilities))
    return metric.evaluate(len(truth))


@pytest.fixture
def drawn():
    rng = np.random.default_rng(1)
    truth = (rng.random((300, 3)) < [0.1, 0.5, 0.8]).astype(float)
    return truth, np.clip(0.4 * truth + 0.6 * rng.random((300, 3)), 0, 1)


def test_values_by_hand():
    truth = [[1, 0, 1], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    probabilities = [[0.9, 0.4, 0.9], [0.8, 0.1, 0.7], [0.1, 0.9, 0.2], [0.2, 0.3, 0.8]]
    result = measure(truth, probabilities, per_attribute=True)
    assert result["attributes/error_rate"] == pytest.approx(100 * (1 + 1 + 0) / 12)
    # second attribute: positives rank first and third of four, (1/1 + 2/3) / 2
    assert result["attributes/mAP"] == pytest.approx(100 * (1 + 5 / 6 + 1) / 3)
    assert result["attributes/majority_error_rate"] == pytest.approx(100 * (1 + 2 + 1) / 12)
    assert result["attributes/prior_mAP"] == pytest.approx(100 * (1 + 2 + 3) / 12)
    assert result["attributes/AP_5_o_Clock_Shadow"] == pytest.approx(100 * 5 / 6)
    assert result["attributes/error_rate_Bald"] == pytest.approx(25)


def test_mean_average_precision_is_scikit_learns(drawn):
    truth, probabilities = drawn
    expected = average_precision_score(truth, probabilities.astype(np.float32), average="macro")
    assert measure(truth, probabilities)["attributes/mAP"] == pytest.approx(100 * expected)


def test_perfect_and_baseline_predictions(drawn):
    truth, _ = drawn
    perfect = measure(truth, truth)
    assert perfect["attributes/error_rate"] == 0
    assert perfect["attributes/mAP"] == pytest.approx(100)
    majority = np.broadcast_to(truth.mean(0) > 0.5, truth.shape).astype(float)
    guessed = measure(truth, majority)
    assert guessed["attributes/error_rate"] == pytest.approx(
        guessed["attributes/majority_error_rate"]
    )
    assert guessed["attributes/mAP"] == pytest.approx(guessed["attributes/prior_mAP"])


def test_mean_average_precision_leaves_out_constant_attributes_and_names_them(drawn, logged):
    truth, probabilities = drawn
    truth[:, 1] = 1
    result = measure(truth, probabilities, per_attribute=True)
    assert math.isnan(result["attributes/AP_5_o_Clock_Shadow"])
    others = [result["attributes/AP_Bald"], result["attributes/AP_Young"]]
    assert result["attributes/mAP"] == pytest.approx(np.mean(others))
    assert result["attributes/prior_mAP"] == pytest.approx(100 * truth[:, [0, 2]].mean())
    wrong = np.mean((probabilities > 0.5) != truth)
    assert result["attributes/error_rate"] == pytest.approx(100 * wrong)
    assert "with a single value: 5 o Clock Shadow" in logged()


def test_missing_labels_are_left_out(drawn):
    truth, probabilities = drawn
    expected = measure(truth[50:], probabilities[50:])
    assert measure([*[None] * 50, *truth[50:]], probabilities) == pytest.approx(expected)
    partly = truth.copy()
    partly[:50] = np.nan
    assert measure(partly, probabilities) == pytest.approx(expected)


@pytest.mark.parametrize("meta", [META, None])
def test_no_label_at_all_is_nan_with_a_warning(meta, logged):
    result = measure([None, None], [[0.1, 0.2, 0.3]] * 2, meta=meta)
    assert set(result) == {
        f"attributes/{key}" for key in ("error_rate", "mAP", "majority_error_rate", "prior_mAP")
    }
    assert all(math.isnan(value) for value in result.values())
    assert "none of 2 pictures" in logged()


def test_prediction_that_is_not_finite(drawn, logged):
    truth, probabilities = drawn
    probabilities[0, 2] = np.nan
    result = measure(truth, probabilities)
    assert math.isnan(result["attributes/mAP"])
    wrong = ((probabilities > 0.5) != truth) | np.isnan(probabilities)
    assert result["attributes/error_rate"] == pytest.approx(100 * wrong.mean())
    assert "mAP is undefined: non-finite predictions of Young" in logged()


def test_no_picture_at_all_is_nan():
    assert all(math.isnan(value) for value in measure([], []).values())


def test_groups_are_measured_as_one(drawn):
    truth, probabilities = drawn
    meta = dict(
        tasks=dict(
            first=dict(kind="attributes", names=NAMES[:1]),
            second=dict(kind="attributes", names=NAMES[1:]),
        )
    )
    metric = AttributeMetric(("first", "second"), per_attribute=True)
    metric.dataset_meta = meta
    for sample in samples(truth, probabilities):
        parts = {
            key: dict(first=value["attributes"][:1], second=value["attributes"][1:])
            for key, value in sample.items()
        }
        metric.process(None, [parts])
    assert metric.evaluate(len(truth)) == pytest.approx(
        measure(truth, probabilities, per_attribute=True)
    )
    # a picture that lacks the labels of one group still counts for the other
    labelled = [dict(first=torch.ones(1), second=torch.ones(2)), dict(second=torch.zeros(2))]
    for gt in labelled:
        pred = dict(first=torch.zeros(1), second=torch.ones(2))
        metric.process(None, [dict(gt=gt, pred=pred)])
    result = metric.evaluate(2)
    assert result["attributes/error_rate_Bald"] == 100
    assert result["attributes/error_rate_Young"] == 50


def test_table_by_attribute_marks_undefined_values(drawn, logged):
    truth, probabilities = drawn
    truth[:, 1] = 1
    result = measure(truth, probabilities, per_attribute=True)
    rows = {line.split("  ")[0]: line.split() for line in logged().splitlines()}
    assert rows["Young"][1] == f"{result['attributes/error_rate_Young']:.2f}"
    assert rows["5 o Clock Shadow"][-2:] == ["undefined", "undefined"]
    assert "attributes, in percent" in logged()


def test_config_errors():
    meta = dict(tasks=dict(smile=dict(kind="attributes", names=("smiling",))))
    with pytest.raises(ConfigError, match=r"tasks \(smile\), found 'pose'"):
        measure([], [], meta=meta, task=("smile", "pose"))
    with pytest.raises(ConfigError, match="one or more tasks"):
        AttributeMetric(())
    with pytest.raises(ConfigError, match=r"tasks \(pose\), found 'attributes'"):
        measure([], [], meta=dict(tasks=dict(pose=dict(kind="class"))))
