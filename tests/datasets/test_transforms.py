import cv2
import numpy as np
import pytest
import torch
from dots import POINTS, assert_points_on_dots, cropped, dots

from trn_plugin.datasets.transforms import (
    Albumentations,
    Crop,
    CropResize,
    FaceBox,
    LoadImage,
    PackMultiTaskInputs,
    RandomFlip,
    resize,
)
from trn_plugin.errors import ConfigError, DataError


def test_load_image_is_rgb(tmp_path):
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    image[..., 0] = 200
    path = str(tmp_path / "red.png")
    cv2.imwrite(path, image[..., ::-1])
    results = LoadImage()(dict(img_path=path))
    np.testing.assert_array_equal(results["img"], image)
    assert results["ori_shape"] == (4, 6)
    with pytest.raises(DataError, match="missing"):
        LoadImage()(dict(img_path=str(tmp_path / "missing.png")))


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0, 0, 100, 100), (100, 100)),
        ((10, 5, 90, 85), (160, 160)),
        ((-20, -30, 120, 110), (112, 112)),
        ((15, 10, 85, 90), (96, 140)),
    ],
)
def test_points_stay_on_their_dots(make_results, box, size):
    results = cropped(make_results, box=box, size=size)
    assert results["img"].shape == (*size, 3)
    assert_points_on_dots(results, tolerance=0.3)


def test_resize_antialiases():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[:, ::2] = 200  # without antialiasing: all 0 or all 200
    inner = resize(image, (16, 16))[:, 1:-1]
    assert np.abs(inner - 100).max() <= 5


def test_resize_does_not_round():
    ramp = np.arange(8, dtype=np.uint8)[None, :, None].repeat(4, 0).repeat(3, 2)
    small = resize(ramp, (2, 4))
    assert small.dtype == np.float32
    np.testing.assert_allclose(small[:, 1:-1, 0], [[2.5, 4.5]] * 2, atol=1e-5)


def test_the_data_sets_size_is_the_default(make_results):
    def shape(size, input_size):
        results = make_results(dots((50, 50), POINTS / 2), POINTS / 2)
        results.update(box=(0, 0, 50, 50), input_size=input_size)
        return CropResize(size)(results)["img"].shape

    assert shape(None, (20, 30)) == (20, 30, 3)
    assert shape(24, (20, 30)) == (24, 24, 3)
    with pytest.raises(ConfigError, match="input_size"):
        shape(None, None)


@pytest.mark.parametrize("size", [0, -3, 2.5, "64", (64,), (64, 64, 3), True])
def test_bad_sizes_are_config_errors(size):
    with pytest.raises(ConfigError, match=r"CropResize\.size"):
        CropResize(size)


def test_only_landmarks_become_fractions(make_results):
    results = cropped(make_results, pose=3, smile=1.0, box=(10, 10, 60, 110))
    np.testing.assert_allclose(results["gt"]["landmarks"], (POINTS - 10) / (50, 100))
    assert results["gt"]["pose"] == 3
    assert results["gt"]["smile"] == 1.0


def test_flip_mirrors_picture_points_and_classes(make_results):
    results = cropped(make_results, pose=1, size=(80, 120))
    picture = results["img"].copy()
    out = RandomFlip(1.0)(results)
    np.testing.assert_array_equal(out["img"], picture[:, ::-1])
    assert_points_on_dots(out, tolerance=0.3)
    points = out["gt"]["landmarks"]
    assert points[0, 0] < points[1, 0]
    assert points[3, 0] < points[4, 0]
    assert out["gt"]["pose"] == 3
    assert out["gt"]["smile"] == 1.0


@pytest.mark.parametrize(("prob", "low", "high"), [(0, 0, 0), (0.3, 40, 85), (1, 200, 200)])
def test_flip_probability(make_results, prob, low, high):
    base = cropped(make_results)
    flips = sum(
        RandomFlip(prob)(dict(base, rng=np.random.default_rng(seed)))["flipped"]
        for seed in range(200)
    )
    assert low <= flips <= high


@pytest.mark.parametrize("prob", [-0.1, 1.1, "half", None])
def test_bad_probabilities_are_config_errors(prob):
    with pytest.raises(ConfigError, match=r"RandomFlip\.prob"):
        RandomFlip(prob)


def test_transforms_of_the_crop_refuse_pictures(make_results):
    for transform in (RandomFlip(), Albumentations([]), PackMultiTaskInputs()):
        with pytest.raises(ConfigError, match="after CropResize"):
            transform(make_results(dots((100, 100), POINTS), POINTS))


def test_pack(make_results):
    results = dict(cropped(make_results, pose=4), box_source="here", size_of_nothing=1)
    packed = PackMultiTaskInputs()(results)
    sample = packed["data_samples"]
    assert packed["inputs"].dtype == torch.float32
    np.testing.assert_array_equal(packed["inputs"].permute(1, 2, 0).numpy(), results["img"])
    kinds = {task: (label.dtype, tuple(label.shape)) for task, label in sample.gt.items()}
    assert kinds == dict(
        landmarks=(torch.float32, (5, 2)), pose=(torch.int64, ()), smile=(torch.float32, (1,))
    )
    assert sample.gt["pose"] == 4
    assert sample.metainfo == dict(
        img_path="picture.png",
        ori_shape=(100, 100),
        box=(0, 0, 100, 100),
        box_source="here",
        tasks=results["tasks"],
    )


def test_a_missing_label_stays_missing(make_results):
    results = make_results(dots((100, 100), POINTS), POINTS)
    del results["gt"]["landmarks"], results["gt"]["smile"]
    results["box"] = (0, 0, 100, 100)
    for transform in (
        CropResize(32),
        Albumentations([dict(type="Rotate", p=1.0)]),
        RandomFlip(1.0),
        PackMultiTaskInputs(),
    ):
        results = transform(results)
    assert set(results["data_samples"].gt) == {"pose"}


PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def their_resize(results):
    """Like mmcv's ``Resize``: changes only the picture."""
    height, width = results["img"].shape[:2]
    return {**results, "img": cv2.resize(results["img"], (width // 2, height // 2))}


def their_flip(results):
    """Like mmcv's ``RandomFlip``."""
    return {**results, "img": results["img"][:, ::-1], "flip": True, "flip_direction": "horizontal"}


def region(results):
    return {**results, "box": (10, 10, 40, 40), "box_source": "given box"}


def sample(make_results, steps, tasks):
    results = make_results(PICTURE, [[20.0, 15], [40, 15], [30, 20], [22, 30], [38, 30]], pose=1)
    results["gt"] = {task: results["gt"][task] for task in tasks}
    for step in steps:
        results = step(results)
    return results


WHOLE, SQUARE, PACK = FaceBox("whole"), CropResize(32), PackMultiTaskInputs()


@pytest.mark.parametrize(
    ("steps", "tasks", "message"),
    [
        ([SQUARE, PACK], ["smile"], "CropResize: put it after RegionBox"),
        ([Crop(), PACK], ["smile"], "Crop: put it after RegionBox"),
        (
            [their_resize, WHOLE, SQUARE],
            ["landmarks"],
            "60 x 40 into 30 x 20 pixels, and landmarks",
        ),
        ([their_resize, region, SQUARE], ["smile"], "60 x 40 into 30 x 20 pixels, and the box"),
        (
            [WHOLE, SQUARE, their_resize, PACK],
            ["landmarks"],
            "32 x 32 into 16 x 16 pixels, and landm",
        ),
        ([their_flip, WHOLE, SQUARE, PACK], ["landmarks"], "the label of landmarks did not follow"),
        ([WHOLE, SQUARE, their_flip, PACK], ["pose"], "the label of pose did not follow"),
    ],
)
def test_labels_that_do_not_follow_are_refused(make_results, steps, tasks, message):
    with pytest.raises(ConfigError, match=message):
        sample(make_results, steps, tasks)


@pytest.mark.parametrize(
    ("steps", "size"),
    [
        ([their_resize, their_flip, WHOLE, SQUARE, PACK], (32, 32)),
        ([WHOLE, SQUARE, their_resize, their_flip, PACK], (16, 16)),
        ([WHOLE, their_resize, Crop(), PACK], (20, 30)),
    ],
)
def test_labels_without_points_or_sides_are_kept(make_results, steps, size):
    packed = sample(make_results, steps, ["smile"])
    assert packed["inputs"].shape[1:] == size
    assert packed["data_samples"].gt["smile"] == 1
    assert packed["inputs"].float().mean() == pytest.approx(PICTURE.mean(), rel=0.02)
