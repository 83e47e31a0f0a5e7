import numpy as np
import pytest
import torch

from trn_plugin.evaluation.label_similarity import label_features, label_similarity
from trn_plugin.relation import task_similarity

TASKS = dict(
    points=dict(kind="landmarks", names=("a", "b", "c")),
    side=dict(kind="class", classes=("left", "right")),
    marks=dict(kind="attributes", names=("x", "y", "z")),
)


def records(n=60, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        side = int(rng.integers(2))
        points = rng.normal(size=(3, 2)) + np.outer([1, 0, 0], [side, 0])
        yield dict(gt=dict(points=points, side=side, marks=rng.integers(2, size=3)))


def test_features_do_not_see_where_and_how_large_a_face_is():
    near = list(records())
    far = [dict(gt=dict(r["gt"], points=7 * r["gt"]["points"] + [90, 30])) for r in near]
    a, b = (label_features(r, TASKS)["points"] for r in (near, far))
    assert np.allclose(a, b)
    assert np.allclose(np.abs(a.reshape(-1, 3, 2)).max((1, 2)), 0.5)


def test_every_pair_is_measured_over_what_has_both_labels():
    rows = list(records())
    for index in range(0, 60, 3):
        del rows[index]["gt"]["side"]
    for index in range(0, 60, 5):
        del rows[index]["gt"]["points"]
    features = label_features(rows, TASKS)
    tau, counts = label_similarity(features)
    both = [i for i in range(60) if i % 3 and i % 5]
    expected = task_similarity(*(torch.from_numpy(features[t][both]) for t in ("points", "side")))
    assert counts[0, 1] == len(both)
    assert tau[0, 1] == pytest.approx(expected.item())
    assert np.array_equal(tau, tau.T)


def test_too_few_records_are_undefined():
    tau, counts = label_similarity(label_features(list(records(8)), TASKS))
    assert np.isnan(tau[0, 2])  # 8 - 1 <= 6 + 3
    assert not np.isnan(tau[1, 2])  # 8 - 1 > 2 + 3
    assert (counts == 8).all()
