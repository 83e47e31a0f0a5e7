import numpy as np

from trn_plugin.evaluation.label_similarity import label_features, own_shape
from trn_plugin.tasks import read_tasks

TASKS = read_tasks(
    dict(
        points=dict(kind="landmarks", names=("a", "b", "c")),
        side=dict(kind="class", classes=("left", "right")),
        marks=dict(kind="attributes", names=("x", "y", "z")),
    )
)


def records(n=60, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        side = int(rng.integers(2))
        points = rng.normal(size=(3, 2)) + np.outer([1, 0, 0], [side, 0])
        yield dict(gt=dict(points=points, side=side, marks=rng.integers(2, size=3)))


def test_own_shape_is_invariant_to_position_and_scale():
    near = list(records())
    far = [dict(gt=dict(r["gt"], points=7 * r["gt"]["points"] + [90, 30])) for r in near]
    a, b = (label_features(r, TASKS, place=own_shape)["points"] for r in (near, far))
    assert np.allclose(a, b)
    assert np.allclose(np.abs(a.reshape(-1, 3, 2)).max((1, 2)), 0.5)


def test_a_record_without_label_is_a_row_of_nan():
    rows = list(records(9))
    for index in (0, 4):
        del rows[index]["gt"]["side"]
    features = label_features(rows, TASKS)
    assert np.flatnonzero(np.isnan(features["side"]).all(1)).tolist() == [0, 4]
    assert np.isfinite(features["points"]).all()
    labels = [row["gt"]["side"] for row in rows if "side" in row["gt"]]
    assert np.array_equal(np.delete(features["side"], (0, 4), axis=0), np.eye(2)[labels])


def test_attributes_can_be_split_into_columns():
    whole = label_features(list(records()), TASKS)
    apart = label_features(list(records()), TASKS, by_column=True)
    assert list(apart) == ["points", "side", "marks/x", "marks/y", "marks/z"]
    assert np.array_equal(np.hstack([apart[f"marks/{c}"] for c in "xyz"]), whole["marks"])
    assert np.array_equal(apart["side"], whole["side"])
