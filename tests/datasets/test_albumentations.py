"""Albumentations moves pictures and points alike."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from dots import INNER, POINTS, assert_points_on_dots, cropped

from trn_plugin.datasets.transforms import (
    Albumentations,
)
from trn_plugin.errors import ConfigError


@pytest.mark.parametrize("angle", [-60, -15, 7, 30, 90])
@pytest.mark.parametrize("size", [(100, 100), (81, 120)])
def test_rotation_takes_the_points_along(make_results, angle, size):
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
def test_geometry_takes_the_points_along(make_results, config):
    results = Albumentations([config])(cropped(make_results, INNER))
    assert_points_on_dots(results, tolerance=1.0)


def test_points_that_leave_the_picture_are_kept(make_results):
    move = dict(type="Affine", translate_percent=dict(x=0.9, y=0.0), p=1.0)
    results = Albumentations([move])(cropped(make_results))
    np.testing.assert_allclose(
        results["gt"]["landmarks"], POINTS / 100 + (0.9, 0), atol=0.011, rtol=0
    )


def test_pixel_transforms_leave_points_alone(make_results):
    results = cropped(make_results)
    before = results["img"].copy()
    out = Albumentations([dict(type="RandomBrightnessContrast", p=1.0)])(results)
    np.testing.assert_allclose(out["gt"]["landmarks"], POINTS / 100, atol=1e-6)
    assert out["img"].dtype == np.uint8
    assert (out["img"] != before).any()


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
        (dict(type="HorizontalFlip"), "use RandomFlip"),
        (dict(type="SomeOf", n=1, transforms=[dict(type="D4")]), "use RandomFlip"),
        (dict(type="np"), "no transform 'np'"),
    ],
)
def test_bad_configs_are_errors_when_built(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Albumentations([config])
    assert "\n" not in str(caught.value)


def test_a_changed_size_is_an_error(make_results):
    with pytest.raises(ConfigError, match="CropResize"):
        Albumentations([dict(type="Resize", height=20, width=20)])(cropped(make_results))


def test_the_draw_comes_from_the_samples_generator_alone(make_results):
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


def test_albumentations_does_not_ask_for_updates():
    code = (
        "import os; os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None)\n"
        "import trn_plugin.datasets, os; print(os.environ['NO_ALBUMENTATIONS_UPDATE'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().endswith("1")
