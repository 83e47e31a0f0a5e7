"""The crops of evaluation, and tau of labels measured in them."""

import numpy as np
import pytest
from PIL import Image

from trn_plugin.datasets import TabularMultiTask
from trn_plugin.datasets.crops import EvaluationCrops, picture_size
from trn_plugin.errors import DataError
from trn_plugin.evaluation.label_similarity import label_features
from trn_plugin.tasks import read_tasks

LABELS = dict(
    ends=dict(kind="landmarks", points=["top", "low"], flip_pairs=[]), size=dict(kind="values")
)


@pytest.fixture
def make(tmp_path):
    """A function: pictures of points that lie further apart the larger 'size' is."""

    def make(pictures=True, **kwargs):
        rng = np.random.default_rng(0)
        rows = ["image,top_x,top_y,low_x,low_y,size"]
        for number in range(80):
            x, y, size = rng.uniform(60, 90), rng.uniform(60, 90), rng.uniform(8, 40)
            rows.append(f"{number}.png,{x},{y - size},{x},{y + size},{size}")
            if pictures:
                Image.new("RGB", (150, 140)).save(tmp_path / f"{number}.png")
        (tmp_path / "labels.csv").write_text("\n".join(rows))
        return TabularMultiTask(str(tmp_path), "labels.csv", LABELS, **kwargs)

    return make


def records_of(dataset):
    return [dataset.results_of(index) for index in range(len(dataset))]


def tau(dataset, crops):
    place = crops and crops.place
    found = label_features(records_of(dataset), read_tasks(dataset.metainfo["tasks"]), place=place)
    centred = [values - values.mean(0) for values in found.values()]
    bases = [np.linalg.qr(values[:, np.ptp(values, 0) > 1e-9])[0] for values in centred]
    return np.linalg.svd(bases[0].T @ bases[1])[1][0]


def test_whole_pictures_keep_a_size_and_a_box_around_the_points_loses_it(make):
    dataset = make()
    whole = EvaluationCrops.of(records_of(dataset), [dict(type="FaceBox", mode="whole")])
    assert whole.boxes == [(0, 0, 150, 140)] * 80
    assert whole.about == "whole picture"
    assert tau(dataset, whole) > 0.99
    exact = EvaluationCrops.of(records_of(dataset), [dict(type="FaceBox", mode="landmarks")])
    assert tau(dataset, exact) < 0.6
    assert tau(dataset, None) > 0.99


def test_the_boxes_are_those_that_the_pipeline_takes(make):
    steps = [dict(type="LoadImage"), dict(type="RegionBox", training=False)]
    rest = [dict(type="CropResize", size=8), dict(type="PackMultiTaskInputs")]
    dataset = make(pipeline=steps + rest)
    crops = EvaluationCrops.of(records_of(dataset), steps)
    assert crops.boxes == [dataset[index]["data_samples"].box for index in range(80)]
    assert "perturbed" in crops.about


def test_pictures_that_are_not_there_have_no_box(make):
    dataset = make(pictures=False)
    crops = EvaluationCrops.of(records_of(dataset), [dict(type="FaceBox", mode="whole")])
    assert crops.boxes == [None] * 80
    assert EvaluationCrops.of(records_of(dataset), [dict(type="LoadImage")]) is None


def test_size_of_a_picture_is_that_of_its_decoded_pixels(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("L", (30, 20)).save(tmp_path / "grey.png")
    assert picture_size(str(tmp_path / "turned.jpg")) == (20, 30)
    assert picture_size(str(tmp_path / "grey.png")) == (30, 20)
    assert picture_size(str(tmp_path / "none.png")) is None
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png: not a readable picture"):
        picture_size(str(tmp_path / "text.png"))
