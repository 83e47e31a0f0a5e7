"""Albumentations moves points with the picture; transforms that drop or mirror them are refused."""

import pickle
import subprocess
import sys

import albumentations
import cv2
import numpy as np
import pytest
from dots import INNER, POINTS, assert_points_on_dots, cropped

from trn_plugin.datasets.transforms import (
    Albumentations,
)
from trn_plugin.errors import ConfigError

SIDE = 96
DISTORTIONS = [
    dict(type="GridDistortion", distort_limit=0.4),
    dict(type="OpticalDistortion", distort_limit=0.5),
    dict(type="ElasticTransform", alpha=300, sigma=8),
    dict(type="PiecewiseAffine", scale=(0.02, 0.03)),
    dict(type="ThinPlateSpline", scale_range=(0.05, 0.1)),
]


@pytest.mark.parametrize("angle", [-60, -15, 7, 30, 90])
@pytest.mark.parametrize("size", [(100, 100), (81, 120)])
def test_points_follow_a_rotation(make_results, angle, size):
    rotate = dict(type="Rotate", limit=(angle, angle), p=1.0, border_mode=0)
    before = cropped(make_results, INNER, size=size)
    old = before["gt"]["landmarks"].copy()
    results = Albumentations([rotate])(before)
    assert_points_on_dots(results)
    assert np.abs(results["gt"]["landmarks"] - old).max() > 0.02


@pytest.mark.parametrize(
    "config",
    [
        dict(type="Affine", scale=(0.7, 0.7), translate_px=dict(x=6, y=-4), p=1.0),
        dict(type="Affine", shear=dict(x=(15, 15), y=(0, 0)), p=1.0),
        dict(type="Perspective", scale=(0.05, 0.05), p=1.0),
        dict(type="ShiftScaleRotate", rotate_limit=(20, 20), p=1.0),
        dict(type="RandomRotate90", p=1.0),
        dict(type="SafeRotate", limit=(20, 20), p=1.0),
        dict(type="OneOf", transforms=[dict(type="Rotate", limit=(10, 10), p=1.0)], p=1.0),
    ],
    ids=lambda config: config["type"],
)
def test_points_follow_geometric_transforms(make_results, config):
    results = Albumentations([config])(cropped(make_results, INNER))
    assert_points_on_dots(results, tolerance=1.0)


def test_points_that_leave_the_picture_are_kept(make_results):
    move = dict(type="Affine", translate_percent=dict(x=0.9, y=0.0), p=1.0)
    results = Albumentations([move])(cropped(make_results))
    np.testing.assert_allclose(
        results["gt"]["landmarks"], POINTS / 100 + (0.9, 0), atol=0.011, rtol=0
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(type="Rotate", limits=10), r"transforms\[0\].*Rotate.*limits"),
        (dict(type="RandomRotate90", limit=10), r"takes no \['limit'\]"),
        (dict(type="Rotate", limit="wide"), r"transforms\[0\].*Rotate"),
        (dict(type="Rotat"), r"transforms\[0\].*no transform 'Rotat'"),
        (dict(type="Rotate", p=3), r"transforms\[0\].*Rotate"),
        (dict(type="OneOf", transforms=[dict(type="Rotate", limt=1)]), r"\[0\]\.transforms\[0\]"),
        (dict(type="OneOf", transforms=[dict(type="ToGray")], q=1), "OneOf"),
        (dict(limit=10), "'type'"),
        ("Rotate", "'type'"),
        (dict(type="np"), "no transform 'np'"),
        (dict(type="HorizontalFlip"), r"transforms\[0\]: HorizontalFlip mirrors .*use RandomFlip"),
        (dict(type="SomeOf", n=1, transforms=[dict(type="D4")]), r"\.transforms\[0\]: D4 mirrors"),
        (dict(type="TimeReverse"), "TimeReverse mirrors"),
        (dict(type="VerticalFlip", p=0.01), "VerticalFlip mirrors"),
        (dict(type="Transpose"), "Transpose mirrors"),
        (dict(type="SquareSymmetry"), "SquareSymmetry mirrors"),
        (dict(type="Affine", scale=dict(x=(-1, -1), y=(1, 1))), "Affine mirrors"),
        (dict(type="Affine", scale=(-0.01, 1.0)), "Affine mirrors"),
        (dict(type="Affine", scale=dict(x=-1, y=1)), "Affine mirrors"),
    ],
)
def test_bad_configs_are_errors_when_built(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Albumentations([config])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        dict(type="Resize", height=20, width=20, p=0.01),
        dict(type="ToFloat", p=0.01),
        dict(
            type="OneOf",
            transforms=[dict(type="CenterCrop", height=9, width=9), dict(type="Blur")],
            p=0.01,
        ),
    ],
    ids=lambda config: config["type"],
)
def test_a_rare_change_of_size_or_type_is_an_error_at_the_first_picture(make_results, config):
    with pytest.raises(ConfigError, match="CropResize"):
        Albumentations([config])(cropped(make_results))


def test_augmentation_depends_only_on_the_samples_generator(make_results):
    transform = Albumentations(
        [dict(type=name, p=1.0) for name in ("Rotate", "GaussNoise", "Spatter", "ISONoise")]
    )

    def run(seed):
        return transform(cropped(make_results, seed=seed))

    first = run(4)
    np.random.seed(1)
    cv2.setRNGSeed(1)
    other, again = run(5), run(4)
    np.testing.assert_array_equal(first["img"], again["img"])
    np.testing.assert_array_equal(first["gt"]["landmarks"], again["gt"]["landmarks"])
    assert (first["img"] != other["img"]).any()
    assert (first["gt"]["landmarks"] != other["gt"]["landmarks"]).any()


def test_importing_albumentations_makes_no_network_request():
    code = (
        "import os; os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None)\n"
        "import trn_plugin.datasets, os; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().endswith("1")


def coordinates():
    """A picture whose pixel values encode their position."""
    ys, xs = np.mgrid[:SIDE, :SIDE].astype(np.uint8)
    return np.stack([xs, ys, np.full_like(xs, 255)], axis=-1)


@pytest.mark.parametrize("config", DISTORTIONS, ids=lambda config: config["type"])
@pytest.mark.parametrize("nested", [False, True])
def test_landmarks_follow_a_distortion(make_results, config, nested):
    config = dict(config, p=1.0)
    steps = [dict(type="OneOf", transforms=[config], p=1.0)] if nested else [config]
    transform = pickle.loads(pickle.dumps(Albumentations(steps)))
    draws = np.random.default_rng(5)
    errors, moves = [], []
    for seed in range(60):
        points = draws.uniform(15, SIDE - 15, (5, 2))
        results = make_results(coordinates(), points, seed=seed)
        results["gt"]["landmarks"] = points / SIDE
        results["crop_shape"] = (SIDE, SIDE)
        out = transform(results)
        found = out["gt"]["landmarks"] * SIDE - 0.5
        assert found.shape == (5, 2)
        for point, (x, y) in zip(points - 0.5, found, strict=True):
            away = np.hypot(*(out["img"][..., :2].astype(float) - point).transpose(2, 0, 1))
            away[out["img"][..., 2] < 255] = np.inf
            if away.min() < 1:
                row, column = np.unravel_index(away.argmin(), away.shape)
                errors.append(np.hypot(x - column, y - row))
                moves.append(np.hypot(*(point - (column, row))))
    assert np.median(errors) <= 0.75  # positions are encoded as whole numbers
    assert np.quantile(errors, 0.9) <= 1.5
    assert np.quantile(moves, 0.9) > 1


def test_transforms_that_drop_landmarks_are_refused(monkeypatch):
    class Loses(albumentations.NoOp):
        def apply_to_keypoints(self, keypoints, **params):
            return keypoints[1:]

    monkeypatch.setattr(albumentations, "Loses", Loses, raising=False)
    with pytest.raises(ConfigError, match="Loses drops landmarks: 36 went in, 35 came out"):
        Albumentations([dict(type="Loses")])


@pytest.mark.parametrize(
    "config",
    [
        dict(type="Affine", scale=(0.8, 1.2), rotate=(-180, 180), shear=(-20, 20)),
        dict(type="ShiftScaleRotate"),
        dict(type="Perspective"),
        dict(type="RandomRotate90"),
        dict(type="CoarseDropout"),
        dict(type="SafeRotate", limit=180),
        dict(type="Crop", x_max=80, y_max=80, pad_if_needed=False),  # larger than the trial picture
    ],
)
def test_transforms_that_keep_landmarks_are_accepted(config):
    Albumentations([config])


def test_a_landmark_outside_the_picture_stays_outside(make_results):
    points = np.array([[-6.0, 40], [50, -9], [SIDE + 8, 50], [40, SIDE + 5], [48, 48]])
    results = make_results(coordinates(), points)
    results["gt"]["landmarks"], results["crop_shape"] = points / SIDE, (SIDE, SIDE)
    found = Albumentations([dict(DISTORTIONS[0], p=1.0)])(results)["gt"]["landmarks"] * SIDE
    assert found[0, 0] < 0
    assert found[1, 1] < 0
    assert found[2, 0] > SIDE
    assert found[3, 1] > SIDE
    assert np.abs(found - points).max() < 25
