import math
import re

import numpy as np
import pytest
import torch

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation import NormalizedMeanError
from trn_plugin.geometry import image_to_box
from trn_plugin.tasks.landmarks import normalized_errors

FACE = np.array([[30.0, 40], [70, 42], [50, 60], [35, 80], [65, 82]])
META = dict(
    tasks=dict(
        landmarks=dict(kind="landmarks", names=tuple("abcde"), interocular=(0, 1)),
        pose=dict(kind="class", classes=("left profile", "frontal")),
    )
)
OFFSETS = [f"offset_{axis}{point}" for axis in "xy" for point in ("", *(f"_{p}" for p in "abcde"))]
THREE = dict(tasks=dict(landmarks=dict(kind="landmarks", names=tuple("abc"), interocular=(0, 1))))


def sample(truth, pred, box, pose=None):
    """A data sample from points in the picture's pixels."""
    gt = {} if truth is None else {"landmarks": torch.tensor(image_to_box(truth, box))}
    if pose is not None:
        gt["pose"] = torch.tensor(pose)
    return dict(gt=gt, pred={"landmarks": torch.tensor(image_to_box(pred, box))}, box=box)


def measure(samples, meta=META, **kwargs):
    metric = NormalizedMeanError(**kwargs)
    metric.dataset_meta = meta
    metric.process(None, samples)
    return metric.evaluate(len(samples))


@pytest.fixture
def faces():
    rng = np.random.default_rng(0)
    truth = FACE + rng.normal(0, 5, (20, 5, 2))
    return truth, truth + rng.normal(0, 4, truth.shape)


def test_value_by_hand():
    truth = np.array([[10.0, 20], [50, 50], [0, 0]])  # eyes 50 apart, box 50 x 50
    pred = np.add(truth, [[3, 4], [0, 0], [0, 10]])  # distances 5, 0, 10: mean 5
    norms = dict(interocular=10.0, box=10.0, diagonal=10 / math.sqrt(2), crop=100 * 5 / 80)
    for norm, expected in norms.items():
        result = measure([sample(truth, pred, (-10, 0, 90, 64))], THREE, norm=norm)
        assert result["landmarks/NME"] == pytest.approx(expected)


def test_mean_is_over_pictures_not_points():
    near = sample(FACE, np.add(FACE, [4, 0]), (0, 0, 100, 100))
    far = sample(FACE, np.add(FACE, [0, 12]), (0, 0, 100, 100))
    eyes = np.linalg.norm(FACE[0] - FACE[1])
    result = measure([near, far])
    assert result["landmarks/NME"] == pytest.approx(100 * 8 / eyes)
    assert result["landmarks/failure_rate"] == 50
    assert measure([near, far], failure_threshold=100 * 13 / eyes)["landmarks/failure_rate"] == 0


@pytest.mark.parametrize("norm", ["interocular", "box", "diagonal"])
def test_perfect_prediction_is_zero(faces, norm):
    result = measure([sample(t, t, (5, 3, 90, 110)) for t in faces[0]], norm=norm)
    assert result.keys() == {f"landmarks/{key}" for key in ("NME", "failure_rate", *OFFSETS)}
    assert not any(result.values())


def test_offsets_are_in_pixels_of_the_picture_and_by_point(faces, logged):
    truth, pred = faces
    shift = np.array([1.5, -0.25])
    boxes = [(0, 0, 90, 110), (-30, 10, 170, 90)] * 10  # of other sizes and shapes
    samples = [sample(t, t + shift, box) for t, box in zip(truth, boxes, strict=True)]
    result = measure(samples)
    assert result["landmarks/offset_x"] == pytest.approx(1.5)
    assert result["landmarks/offset_y"] == pytest.approx(-0.25)
    for name in "abcde":
        assert re.search(rf"^{name} +\+1\.50 +-0\.25$", logged(), re.MULTILINE)
        assert result[f"landmarks/offset_x_{name}"] == pytest.approx(1.5)
        assert result[f"landmarks/offset_y_{name}"] == pytest.approx(-0.25)
    samples = [sample(t, p, box) for t, p, box in zip(truth, pred, boxes, strict=True)]
    result = measure(samples)
    medians = np.median(pred - truth, axis=(0, 1))
    found = [result["landmarks/offset_x"], result["landmarks/offset_y"]]
    assert found == pytest.approx(medians.tolist(), abs=1e-5)
    for point, medians in zip("abcde", np.median(pred - truth, axis=0), strict=True):
        found = [result[f"landmarks/offset_{axis}_{point}"] for axis in "xy"]
        assert found == pytest.approx(medians.tolist(), abs=1e-5)


def test_offsets_leave_out_points_that_are_missing(faces):
    truth = faces[0].copy()
    pred = np.add(truth, [2.0, 1.0])
    truth[::2, 3] = np.nan
    pred[1::4, 4] = np.inf
    box = (0, 0, 100, 100)
    result = measure([sample(t, p, box) for t, p in zip(truth, pred, strict=True)])
    assert result["landmarks/offset_x"] == pytest.approx(2)
    assert result["landmarks/offset_y"] == pytest.approx(1)


@pytest.mark.parametrize("norm", ["interocular", "box", "diagonal"])
def test_does_not_depend_on_the_crop(faces, norm):
    """The same pixels through square, wide and tall boxes give the same error."""
    values = [
        measure([sample(t, p, box) for t, p in zip(*faces, strict=True)], norm=norm)
        for box in [(0, 0, 100, 100), (-20, 10, 180, 60), (3, -50, 43, 170)]
    ]
    for value in values[1:]:  # fractions of a crop are float32: 1e-5 pixels of 200
        assert value == pytest.approx(values[0], abs=1e-5)


@pytest.mark.parametrize("norm", ["interocular", "box", "diagonal"])
@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0), (0.25, 11), (1, -40)])
def test_invariant_to_scale_and_translation_of_the_picture(faces, norm, scale, shift):
    truth, pred = faces
    box = np.array([0, 0, 100, 120])
    boxes = np.repeat(box[None], len(truth), 0)
    before = normalized_errors(image_to_box(truth, box), image_to_box(pred, box), boxes, norm)
    moved_box = box * scale + shift
    truth, pred = truth * scale + shift, pred * scale + shift
    moved = np.repeat(moved_box[None], len(truth), 0)
    after = normalized_errors(
        image_to_box(truth, moved_box), image_to_box(pred, moved_box), moved, norm
    )
    assert before == pytest.approx(after)
    assert (before > 0).all()


def test_eye_points_come_from_the_metainfo():
    meta = dict(
        tasks=dict(landmarks=dict(kind="landmarks", names=tuple("abcde"), interocular=(3, 4)))
    )
    pred = np.add(FACE, [1, 0])
    result = measure([sample(FACE, pred, (0, 0, 99, 99))], meta=meta)
    assert result["landmarks/NME"] == pytest.approx(100 / np.linalg.norm(FACE[3] - FACE[4]))


def test_missing_labels_are_left_out():
    labelled = sample(FACE, FACE + 2, (0, 0, 100, 100))
    missing = sample(None, FACE + 50, (0, 0, 100, 100))
    assert measure([missing, labelled, missing]) == pytest.approx(measure([labelled]))


def test_degenerate_normalizer_is_left_out_with_a_warning(logged):
    fine = sample(FACE, FACE + 2, (0, 0, 100, 100))
    collapsed, broken = FACE.copy(), FACE.copy()
    collapsed[1] = collapsed[0]
    broken[0] = np.nan
    samples = [sample(p, FACE, (0, 0, 100, 100)) for p in (collapsed, broken)]
    assert measure([fine, *samples], mean_shape=True) == pytest.approx(
        measure([fine], mean_shape=True)
    )
    assert "left out 2 pictures" in logged()


def test_no_label_at_all_is_nan_with_a_warning(logged):
    result = measure([sample(None, FACE, (0, 0, 100, 100))], by="pose", mean_shape=True)
    assert set(result) == {
        "landmarks/NME",
        "landmarks/failure_rate",
        *(f"landmarks/{name}" for name in OFFSETS),
        "landmarks/NME_mean_shape",
        "landmarks/NME_left_profile",
        "landmarks/NME_frontal",
    }
    assert all(math.isnan(value) for value in result.values())
    assert "none of 1 pictures" in logged()


def test_non_finite_prediction_counts_as_failure(logged):
    fine = sample(FACE, FACE, (0, 0, 100, 100))
    broken = sample(FACE, FACE * np.nan, (0, 0, 100, 100))
    result = measure([fine, broken])
    assert result["landmarks/failure_rate"] == 50
    assert not math.isfinite(result["landmarks/NME"])
    assert "not finite" in logged()


def test_errors_by_pose_average_to_the_total(faces):
    poses = np.arange(20) % 4 == 0
    samples = [
        sample(t, p, (0, 0, 100, 100), int(c)) for t, p, c in zip(*faces, poses, strict=True)
    ]
    result = measure(samples, by="pose")
    parts = result["landmarks/NME_left_profile"], result["landmarks/NME_frontal"]
    assert parts[0] != pytest.approx(parts[1])
    assert np.average(parts, weights=[15, 5]) == pytest.approx(result["landmarks/NME"])


def test_mean_shape_is_a_constant_prediction(faces):
    box = (0, 0, 100, 140)
    truth = faces[0]
    constant = truth.mean(axis=0)
    as_prediction = measure([sample(t, constant, box) for t in truth])["landmarks/NME"]
    result = measure([sample(t, p, box) for t, p in zip(*faces, strict=True)], mean_shape=True)
    assert result["landmarks/NME_mean_shape"] == pytest.approx(as_prediction)
    assert result["landmarks/NME_mean_shape"] > 0


def test_boxes_are_logged(logged):
    one = {**sample(FACE, FACE, (0, 0, 100, 100)), "box_source": "whole picture"}
    measure([one, one])
    assert "whole picture (2)" in logged()


def test_config_errors():
    with pytest.raises(ConfigError, match=r"interocular, box, diagonal, crop, found 'iod'"):
        NormalizedMeanError(norm="iod")
    with pytest.raises(ConfigError, match=r"tasks \(landmarks, pose\), found 'points'"):
        measure([], task="points")
    with pytest.raises(ConfigError, match="kind 'landmarks', found 'pose' of kind 'class'"):
        measure([], task="pose")
    blind = dict(tasks=dict(landmarks=dict(kind="landmarks", names=tuple("abcde"))))
    with pytest.raises(ConfigError, match=r"which points of 'landmarks' are the eyes.*set norm"):
        measure([], meta=blind)
    measure([], meta=blind, norm="crop")
    with pytest.raises(ConfigError, match="found 'yaw'"):
        measure([], by="yaw")
    with pytest.raises(ConfigError, match=r"model's tasks \(landmarks\), found 'points'"):
        measure([sample(FACE, FACE, (0, 0, 9, 9))], meta=None, task="points")
    boxless = sample(FACE, FACE, (0, 0, 9, 9))
    del boxless["box"]
    with pytest.raises(ConfigError, match="PackMultiTaskInputs"):
        measure([boxless])
