import numpy as np
import pytest

from trn_plugin.datasets.transforms import FaceBox
from trn_plugin.errors import ConfigError, DataError

LANDMARKS = np.array([[80.0, 90], [120, 92], [101, 110], [85, 130], [117, 131]])
EXTENT = 41.0  # of y, the larger
CENTER = np.array([100.0, 110.5])
IMAGE = np.zeros((200, 260, 3), dtype=np.uint8)


def boxes(transform, make_results, count=300):
    out = []
    for seed in range(count):
        out.append(transform(make_results(IMAGE, LANDMARKS, seed=seed))["box"])
    return np.array(out, dtype=float)


@pytest.mark.parametrize("mode", ["jitter", "perturbed"])
def test_sampled_boxes_fill_their_range(mode, make_results):
    transform = FaceBox(mode)
    drawn = boxes(transform, make_results)
    sides = drawn[:, 2] - drawn[:, 0]
    np.testing.assert_array_equal(sides, drawn[:, 3] - drawn[:, 1])
    scales = sides / EXTENT
    low, high = transform.scale
    slack = 1 / EXTENT
    assert low - slack <= scales.min() < low + 0.1 * (high - low) + slack
    assert high - 0.1 * (high - low) - slack < scales.max() <= high + slack
    shifts = ((drawn[:, :2] + drawn[:, 2:]) / 2 - CENTER) / sides[:, None]
    limit = transform.shift + 1.0 / sides.min()
    assert (np.abs(shifts) <= limit).all()
    for bound in (shifts.min(axis=0), -shifts.max(axis=0)):
        assert (bound < -0.85 * transform.shift).all()
    assert np.abs(shifts.mean(axis=0)).max() < 0.2 * transform.shift


def test_training_boxes_change_by_epoch_and_validation_boxes_do_not(make_results):
    others = dict(jitter=dict(eval_seed=(1, 9)), perturbed=dict(rng=np.random.default_rng(99)))
    for mode, other in others.items():
        first = make_results(IMAGE, LANDMARKS, seed=3)
        second = dict(make_results(IMAGE, LANDMARKS, seed=3), **other)
        assert FaceBox(mode)(first)["box"] == FaceBox(mode)(second)["box"]


def test_whole_picture(make_results):
    results = FaceBox("whole")(make_results(IMAGE, LANDMARKS))
    assert results["box"] == (0, 0, 260, 200)
    assert results["box_source"] == "whole picture"


def test_exact_box_says_that_it_leaks(make_results):
    results = FaceBox("landmarks", scale=1.0)(make_results(IMAGE, LANDMARKS))
    assert "leaks" in results["box_source"]
    box = np.array(results["box"])
    assert box[2] - box[0] == EXTENT
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, CENTER, atol=1)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(mode="tight"),
        dict(mode="whole", scale=2.0),
        dict(mode="landmarks", shift=0.1),
        dict(mode="landmarks", scale=(1, 2)),
        dict(mode="jitter", scale=(3, 2)),
        dict(mode="jitter", scale=0),
        dict(mode="jitter", scale=(1, 2, 3)),
        dict(mode="jitter", scale="2"),
        dict(mode="jitter", shift=0.5),
        dict(mode="jitter", shift=-0.1),
    ],
)
def test_bad_values_are_config_errors(kwargs):
    with pytest.raises(ConfigError, match="FaceBox"):
        FaceBox(**kwargs)


def test_no_box_without_landmarks(make_results):
    results = make_results(IMAGE, LANDMARKS)
    results["landmarks"] = None
    with pytest.raises(DataError, match="'jitter' box needs landmarks"):
        FaceBox("jitter")(results)
    results["landmarks"] = np.ones((5, 2))
    with pytest.raises(DataError, match="all coincide"):
        FaceBox("jitter")(results)
