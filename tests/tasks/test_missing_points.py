"""Landmarks with missing points."""

import numpy as np
import pytest

from trn_plugin.datasets.csv_cells import Cells
from trn_plugin.errors import DataError
from trn_plugin.tasks import LabelColumns, read_task
from trn_plugin.tasks.landmarks import LandmarkColumns, nanmean, normalized_errors

NAMES = tuple("abcde")
TASK = read_task("t", dict(kind="landmarks", names=NAMES, flip=(1, 0, 2, 4, 3), interocular=(0, 1)))
BOX = np.array([10.0, 20.0, 110.0, 70.0])


def labels(count=50, share=0.3, seed=0):
    """Labels (N, 5, 2) with missing points, each with at least one."""
    rng = np.random.default_rng(seed)
    found = rng.random((count, 5, 2))
    missing = rng.random((count, 5)) < share
    missing[np.arange(count), rng.integers(0, 5, count)] = False
    found[missing] = np.nan
    return found


def reference(pred, truth, box, norm):
    """Error of a picture, point by point."""
    side = box[2:] - box[:2]
    points = [
        (p * side, t * side) for p, t in zip(pred, truth, strict=True) if not np.isnan(t).any()
    ]
    if norm == "interocular":
        normalizer = np.linalg.norm((truth[0] - truth[1]) * side)
    else:
        normalizer = np.sqrt(side[0] * side[1])
    return np.mean([np.linalg.norm(p - t) for p, t in points]) / normalizer


@pytest.mark.parametrize("norm", ["interocular", "crop"])
def test_errors_are_those_of_a_reference(norm):
    truth = labels()
    pred = np.random.default_rng(1).random(truth.shape)
    boxes = np.broadcast_to(BOX, (len(truth), 4))
    found = normalized_errors(pred, truth, boxes, norm)
    expected = [reference(p, t, BOX, norm) for p, t in zip(pred, truth, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("norm", ["box", "diagonal"])
def test_a_normaliser_needs_all_its_points(norm):
    truth = labels()
    boxes = np.broadcast_to(BOX, (len(truth), 4))
    errors = normalized_errors(truth + 0.1, truth, boxes, norm)
    assert (np.isnan(errors) == np.isnan(truth).any(axis=(1, 2))).all()


def test_predictions_of_missing_points_do_not_count():
    truth = labels()
    pred = np.where(np.isnan(truth), np.inf, truth)
    boxes = np.broadcast_to(BOX, (len(truth), 4))
    assert (normalized_errors(pred, truth, boxes, "crop") == 0).all()
    pred[0, ~np.isnan(truth[0, :, 0])] = np.nan
    assert normalized_errors(pred, truth, boxes, "crop")[0] == np.inf


def test_means_are_over_the_labels_that_have_a_point():
    truth = labels()
    expected = [truth[~np.isnan(truth[:, i, 0]), i].mean(axis=0) for i in range(5)]
    np.testing.assert_allclose(nanmean(truth, 0), expected)
    truth[:, 2] = np.nan
    assert np.isnan(nanmean(truth, 0)).all(axis=1).tolist() == [False, False, True, False, False]


def test_points_move_and_come_back_to_their_places():
    for label in labels():
        moved = TASK.mapped(label, lambda points: 2 * points)
        np.testing.assert_array_equal(moved, 2 * label)
        assert np.isfinite(TASK.points(label)).all()


def test_missing_points_are_mirrored_too():
    for label in labels():
        mirrored = TASK.mirrored(label)
        missing = np.isnan(label).any(axis=1)
        assert (np.isnan(mirrored).any(axis=1) == missing[list(TASK.info["flip"])]).all()
        np.testing.assert_allclose(TASK.mirrored(mirrored), label)


def test_a_label_needs_a_whole_point():
    half, none = labels(2)
    half[0] = np.nan, 0.5
    none[:] = np.nan
    for label in (half, none):
        with pytest.raises(DataError, match="finite"):
            TASK.check([label])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("1 2 1 3 4", [[1, 2], [3, 4]]),
        ("1 2 2 3 4", [[1, 2], [3, 4]]),
        ("1 2 0 3 4", [None, [3, 4]]),
        ("0 0 0 3 4", [None, [3, 4]]),
        ("1 2 - 3 4", [None, [3, 4]]),
        ("1 2 1 - -", [[1, 2], None]),
        ("1 2 yes 3 4", "to be 0 .*, 1 or 2, found 'yes'"),
    ],
)
def test_a_visibility_column_marks_missing_points(cells, expected):
    columns = LandmarkColumns("landmarks", "t", points=dict(p=("x", "y", "v"), q=("a", "b")))
    check_columns(columns, cells, expected)


def check_columns(columns: LabelColumns, text: str, expected) -> None:
    cells = ["" if cell == "-" else cell for cell in text.split()]
    missing = np.array([[not cell or cell == "nan" for cell in cells]])
    assert columns.labelled(missing).tolist() == [expected is not None]
    own = [Cells([cell]) for cell in cells]
    if isinstance(expected, str):
        with pytest.raises(DataError, match=f"here: expected v {expected}"):
            columns.read_all(own, lambda row: "here")
    elif expected is not None:
        points = [[np.nan] * 2 if point is None else point for point in expected]
        np.testing.assert_array_equal(columns.read_all(own, lambda row: "here"), [points])
