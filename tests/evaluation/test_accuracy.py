import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation import Accuracy

META = dict(tasks=dict(pose=dict(kind="class", classes=("left", "frontal", "right"))))


def sample(truth, probabilities):
    gt = {} if truth is None else {"pose": torch.tensor(truth)}
    return dict(gt=gt, pred={"pose": torch.as_tensor(probabilities, dtype=torch.float32)})


def measure(samples, meta=META, **kwargs):
    metric = Accuracy("pose", **kwargs)
    metric.dataset_meta = meta
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def draw(n, seed=0, classes=(0, 1, 1, 1, 1, 2)):
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, n)
    probabilities = rng.dirichlet(np.ones(3), n) + 0.3 * np.eye(3)[truth]
    return truth, probabilities / probabilities.sum(1, keepdims=True)


def test_value_by_hand():
    right, wrong = [0.1, 0.8, 0.1], [0.5, 0.4, 0.1]
    samples = [sample(1, right), sample(1, right), sample(1, wrong), sample(2, wrong)]
    assert measure(samples) == {"pose/accuracy": 50}
    assert measure(samples, balanced=True)["pose/balanced_accuracy"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("classes", [(0, 1, 1, 2), (1, 1, 1, 2)])
def test_balanced_accuracy_is_scikit_learns(classes):
    """Also for a class that is predicted but never labelled."""
    truth, probabilities = draw(200, classes=classes)
    samples = [sample(int(t), p) for t, p in zip(truth, probabilities, strict=True)]
    predicted = probabilities.argmax(1)
    result = measure(samples, balanced=True)
    per_class = [np.mean(predicted[truth == c] == c) for c in np.unique(truth)]
    assert result["pose/balanced_accuracy"] == pytest.approx(100 * np.mean(per_class))
    if len(per_class) == 3:
        expected = 100 * balanced_accuracy_score(truth, predicted)
        assert result["pose/balanced_accuracy"] == pytest.approx(expected)
    assert result["pose/accuracy"] == pytest.approx(100 * np.mean(truth == predicted))


def test_missing_labels_are_left_out():
    truth, probabilities = draw(30)
    samples = [sample(int(t), p) for t, p in zip(truth, probabilities, strict=True)]
    missing = [sample(None, p) for p in probabilities[:7]]
    assert measure(missing + samples, balanced=True) == measure(samples, balanced=True)


def test_no_label_at_all_is_nan_with_a_warning(logged):
    result = measure([sample(None, [0.2, 0.3, 0.5])], balanced=True)
    assert set(result) == {"pose/accuracy", "pose/balanced_accuracy"}
    assert all(math.isnan(value) for value in result.values())
    assert "none of 1 pictures" in logged()


def test_non_finite_prediction_is_wrong(logged):
    broken = [math.nan, 0.5, 0.5]
    result = measure([sample(0, broken), sample(0, [0.8, 0.1, 0.1])], balanced=True)
    assert result == {"pose/accuracy": 50, "pose/balanced_accuracy": 50}
    assert "not finite" in logged()


def test_absent_classes_are_logged(logged):
    measure([sample(1, [0, 1, 0])], balanced=True)
    assert "no picture of left, right" in logged()


def test_config_errors():
    with pytest.raises(ConfigError, match=r"tasks \(gender\), found 'pose'"):
        measure([], meta=dict(tasks=dict(gender=dict(kind="attributes"))))
    with pytest.raises(ConfigError, match="kind 'class', found 'pose' of kind 'landmarks'"):
        measure([], meta=dict(tasks=dict(pose=dict(kind="landmarks"))))
    with pytest.raises(ConfigError, match=r"has 3 entries .*, the model predicts 2"):
        measure([sample(0, [0.4, 0.6])])
