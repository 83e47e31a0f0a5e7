"""The crops of evaluation, and tau of labels measured in them."""

import numpy as np
import pytest
from PIL import Image

from trn_plugin.datasets import TabularMultiTask
from trn_plugin.datasets.crops import picture_size, placement
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


def placed(dataset, *steps):
    return placement(records_of(dataset), steps, [True] * len(dataset))


def tau(dataset, place):
    found = label_features(records_of(dataset), read_tasks(dataset.metainfo["tasks"]), place=place)
    centred = [values - values.mean(0) for values in found.values()]
    bases = [np.linalg.qr(values[:, np.ptp(values, 0) > 1e-9])[0] for values in centred]
    return np.linalg.svd(bases[0].T @ bases[1])[1][0]


def test_whole_pictures_keep_a_size_and_a_box_around_the_points_loses_it(make):
    dataset = make()
    place, about = placed(dataset, dict(type="FaceBox", mode="whole"))
    np.testing.assert_allclose(place(79, np.array([[75.0, 70]])), [[0.5, 0.5]])
    assert about.endswith("whole picture")
    assert tau(dataset, place) > 0.99
    exact, _ = placed(dataset, dict(type="FaceBox", mode="landmarks"))
    assert tau(dataset, exact) < 0.6
    assert tau(dataset, None) > 0.99


def test_the_boxes_are_those_that_the_pipeline_takes(make):
    steps = [dict(type="LoadImage"), dict(type="RegionBox", training=False)]
    rest = [dict(type="CropResize", size=8), dict(type="PackMultiTaskInputs")]
    dataset = make(pipeline=steps + rest)
    place, about = placed(dataset, *steps)
    assert "perturbed" in about
    for index in range(0, 80, 9):
        sample = dataset[index]["data_samples"]
        points = dataset.get_data_info(index)["gt"]["ends"]
        np.testing.assert_allclose(place(index, points), sample.gt["ends"], atol=1e-6)


def test_pictures_that_are_not_there_have_no_box(make):
    dataset = make(pictures=False)
    place, about = placed(dataset, dict(type="FaceBox", mode="whole"))
    assert place is None
    assert "80 crops unknown" in about
    assert placed(dataset, dict(type="LoadImage"))[0] is None


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
