"""Landmarks stay where a distorted picture shows them; what loses or mirrors them is refused."""

import pickle
import time

import albumentations
import numpy as np
import pytest

from trn_plugin.datasets.transforms import Albumentations
from trn_plugin.errors import ConfigError

SIDE = 96
DISTORTIONS = [
    dict(type="GridDistortion", distort_limit=0.4),
    dict(type="OpticalDistortion", distort_limit=0.5),
    dict(type="ElasticTransform", alpha=300, sigma=8),
    dict(type="PiecewiseAffine", scale=(0.02, 0.03)),
    dict(type="ThinPlateSpline", scale_range=(0.05, 0.1)),
]


def coordinates():
    """A picture of which every pixel says where it is."""
    ys, xs = np.mgrid[:SIDE, :SIDE].astype(np.uint8)
    return np.stack([xs, ys, np.full_like(xs, 255)], axis=-1)


@pytest.mark.parametrize("config", DISTORTIONS, ids=lambda config: config["type"])
@pytest.mark.parametrize("nested", [False, True])
def test_landmarks_follow_a_distortion(make_results, config, nested):
    config = dict(config, p=1.0)
    transform = Albumentations(
        [dict(type="OneOf", transforms=[config], p=1.0)] if nested else [config]
    )
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
    assert np.median(errors) <= 0.75  # the picture is whole pixels, and says whole numbers
    assert np.quantile(errors, 0.9) <= 1.5
    assert np.quantile(moves, 0.9) > 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(type="TimeReverse"), r"transforms\[0\]: TimeReverse mirrors .*use RandomFlip"),
        (dict(type="VerticalFlip", p=0.01), "VerticalFlip mirrors"),
        (dict(type="Transpose"), "Transpose mirrors"),
        (dict(type="SquareSymmetry"), "SquareSymmetry mirrors"),
        (dict(type="Affine", scale=dict(x=(-1, -1), y=(1, 1))), "Affine mirrors"),
        (dict(type="Affine", scale=(-0.01, 1.0)), "Affine mirrors"),
        (dict(type="Affine", scale=dict(x=-1, y=1)), "Affine mirrors"),
        (
            dict(type="Sequential", transforms=[dict(type="TimeReverse")]),
            r"\.transforms\[0\]: Time",
        ),
    ],
)
def test_what_loses_or_mirrors_landmarks_is_refused_when_built(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Albumentations([config])
    assert "\n" not in str(caught.value)


def test_what_drops_landmarks_is_found_out(monkeypatch):
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
        dict(type="Crop", x_max=80, y_max=80, pad_if_needed=False),  # larger than what is tried
    ],
)
def test_what_keeps_landmarks_is_taken(config):
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


@pytest.mark.parametrize("config", [DISTORTIONS[0], DISTORTIONS[2]], ids=lambda c: c["type"])
def test_a_distortion_is_fast_and_survives_pickling(make_results, config):
    transform = pickle.loads(pickle.dumps(Albumentations([dict(config, p=1.0)])))
    points = np.full((5, 2), 100.0)
    image = np.zeros((224, 224, 3), np.uint8)
    start = time.process_time()
    for _ in range(5):
        results = make_results(image, points)
        results["gt"]["landmarks"], results["crop_shape"] = points / 224, (224, 224)
        transform(results)
    assert (time.process_time() - start) / 5 < 0.1  # albumentations' own direct way takes 0.19 s
