"""Transforms of other packages in a pipeline: they work, or one line says what is missing."""

import cv2
import numpy as np
import pytest

from trn_plugin.datasets.transforms import Crop, CropResize, FaceBox, PackMultiTaskInputs
from trn_plugin.errors import ConfigError

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def resize(results):
    """As mmcv's ``Resize``: the picture alone."""
    height, width = results["img"].shape[:2]
    return {**results, "img": cv2.resize(results["img"], (width // 2, height // 2))}


def flip(results):
    """As mmcv's ``RandomFlip``."""
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
        ([resize, WHOLE, SQUARE], ["landmarks"], "60 x 40 into 30 x 20 pixels, and landmarks"),
        ([resize, region, SQUARE], ["smile"], "60 x 40 into 30 x 20 pixels, and the box"),
        ([WHOLE, SQUARE, resize, PACK], ["landmarks"], "32 x 32 into 16 x 16 pixels, and landm"),
        ([flip, WHOLE, SQUARE, PACK], ["landmarks"], "the label of landmarks did not follow"),
        ([WHOLE, SQUARE, flip, PACK], ["pose"], "the label of pose did not follow"),
    ],
)
def test_labels_that_do_not_follow_are_refused(make_results, steps, tasks, message):
    with pytest.raises(ConfigError, match=message):
        sample(make_results, steps, tasks)


@pytest.mark.parametrize(
    ("steps", "size"),
    [
        ([resize, flip, WHOLE, SQUARE, PACK], (32, 32)),
        ([WHOLE, SQUARE, resize, flip, PACK], (16, 16)),
        ([WHOLE, resize, Crop(), PACK], (20, 30)),
    ],
)
def test_labels_that_need_not_follow_are_kept(make_results, steps, size):
    packed = sample(make_results, steps, ["smile"])
    assert packed["inputs"].shape[1:] == size
    assert packed["data_samples"].gt["smile"] == 1
    assert packed["inputs"].float().mean() == pytest.approx(PICTURE.mean(), rel=0.02)
