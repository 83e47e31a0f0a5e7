"""The option ``without`` leaves augmentations out."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from trn_plugin.datasets import (
    Albumentations,
    FaceBox,
    RegionBox,
    SampleDraw,
    ToyFaces,
)
from trn_plugin.errors import ConfigError

WORDS = ("shift", "scale", "turn", "mirror", "colour")
BRIGHT = dict(type="RandomBrightnessContrast", brightness_limit=0.5, contrast_limit=0.5, p=1.0)
TURN = dict(type="Rotate", limit=30, p=1.0)
PIPELINES = {
    "as MTFL's": [
        dict(type="LoadImage"),
        dict(type="FaceBox", mode="jitter"),
        dict(type="CropResize"),
        dict(type="Albumentations", transforms=[BRIGHT, TURN]),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackMultiTaskInputs"),
    ],
    "fast": [
        dict(type="RegionBox", training=True),
        dict(type="LoadCrop", rotate=30, scale=(0.5, 2.0), shift=0.3),
        dict(type="Albumentations", transforms=[BRIGHT]),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackMultiTaskInputs"),
    ],
}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("trn_plugin")


def views(root, pipeline, without, count=12):
    dataset = ToyFaces(
        root, train_size=60, test_size=20, input_size=24, pipeline=pipeline, without=without
    )
    return [dataset[SampleDraw(3, epoch=epoch, seed=5)]["inputs"].numpy() for epoch in range(count)]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_without_all_of_them_epochs_are_alike(toy_root, pipeline):
    found = views(toy_root, PIPELINES[pipeline], WORDS)
    assert all((view == found[0]).all() for view in found)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_each_name_leaves_out_one_augmentation(toy_root, pipeline, word):
    others = tuple(each for each in WORDS if each != word)
    left = views(toy_root, PIPELINES[pipeline], others)
    assert len({view.tobytes() for view in left}) > 1  # the other augmentations remain


def results_of(make_results, without, seed):
    points = [[30, 30], [60, 30], [45, 45], [35, 60], [55, 60]]
    image = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    made = make_results(image, points, seed=seed)
    return dict(made, without=frozenset(without))


@pytest.mark.parametrize("step", [FaceBox("jitter"), RegionBox(training=True)])
def test_boxes_without_shift_or_scale(make_results, step):
    boxes = {}
    for word in ("shift", "scale"):
        found = [step(results_of(make_results, [word], seed))["box"] for seed in range(40)]
        boxes[word] = np.array(found)
    middles = boxes["shift"][:, :2] + boxes["shift"][:, 2:]
    assert np.ptp(middles, axis=0).max() <= 2  # of rounding to whole pixels
    sides = boxes["scale"][:, 2:] - boxes["scale"][:, :2]
    assert np.ptp(sides, axis=0).max() <= 1
    assert np.ptp(boxes["scale"][:, 0]) > 5


def test_given_boxes_without_shift_and_scale_are_as_given(make_results):
    step = RegionBox(training=True)
    for seed in range(5):
        results = results_of(make_results, ["shift", "scale"], seed)
        assert step(dict(results, region=(10.0, 20.0, 50.0, 70.0)))["box"] == (10, 20, 50, 70)


@pytest.mark.parametrize(("word", "transform"), [("colour", BRIGHT), ("turn", TURN)])
def test_albumentations_are_left_out_by_their_effect(make_results, word, transform):
    step = Albumentations([transform])
    for without, same in (([word], True), ([], False)):
        results = results_of(make_results, without, 1)
        results |= dict(crop_shape=(100, 100), gt=dict(landmarks=results["landmarks"] / 100))
        before = results["img"].copy(), results["gt"]["landmarks"].copy()
        after = step(results)
        assert (after["img"] == before[0]).all() == same
        moved = np.abs(after["gt"]["landmarks"] - before[1]).max() > 1e-6
        assert moved == (word == "turn" and not same)


@pytest.mark.parametrize("group", ["OneOf", "SomeOf", "Sequential"])
def test_a_group_of_both_kinds_is_refused_where_one_is_left_out(make_results, group):
    some = dict(n=1) if group == "SomeOf" else {}
    nested = dict(type="Sequential", transforms=[TURN])
    mixed = dict(type=group, transforms=[BRIGHT, nested], p=1.0, **some)
    plain = dict(type=group, transforms=[BRIGHT, dict(type="NoOp")], p=1.0, **some)

    def picture(config, *without):
        results = dict(results_of(make_results, without, 1), crop_shape=(100, 100))
        results["gt"] = dict(landmarks=results["landmarks"] / 100)
        return Albumentations([TURN, config])(results)["img"]

    for word in ("turn", "colour"):
        with pytest.raises(ConfigError, match=rf"\[1\]: {group} mixes .* \({word}\)"):
            picture(mixed, word)
        picture(plain, word)
    for without in ((), ("mirror",), ("turn", "colour")):
        picture(mixed, *without)
    before = results_of(make_results, (), 1)["img"]
    assert (picture(mixed, "turn", "colour") == before).all()


@pytest.mark.parametrize("bad", ["mirror", ["flip"], 5, [["turn"]], None])
def test_unknown_names_are_refused(toy_root, bad):
    with pytest.raises(ConfigError, match="without: expected a list of names out of"):
        ToyFaces(toy_root, train_size=60, test_size=20, without=bad)


def test_the_other_augmentations_stay_the_same(toy_root):
    """Leaving out one augmentation changes no random number of the others."""
    plain = views(toy_root, PIPELINES["fast"], ())
    mirrored = views(toy_root, PIPELINES["fast"], ("mirror",))
    for a, b in zip(plain, mirrored, strict=True):
        assert (a == b).all() or (a[..., ::-1] == b).all()
