"""Boxes from columns, from landmarks or of whole pictures; tau of labels in these boxes."""

import numpy as np
import pytest
from label_tables import (
    BOX,
    GIVEN,
    HEADER,
    LABELS,
    NO_EARS,
    ONE_EAR,
    PIPELINE,
    ROW,
    changed,
    make,
    write,
)
from PIL import Image

from trn_plugin.datasets import TabularMultiTask
from trn_plugin.datasets.crops import picture_size, placement
from trn_plugin.errors import ConfigError, DataError
from trn_plugin.evaluation.label_similarity import label_features
from trn_plugin.tasks import read_tasks

ENDS_AND_SIZE = dict(
    ends=dict(kind="landmarks", points=["top", "low"], flip_pairs=[]), size=dict(kind="values")
)


def test_a_box_is_around_the_labelled_points(tmp_path):
    names = ["a", "b", "c"]
    header = ["image", *(f"{name}_{axis}" for name in names for axis in "xy")]
    labels = dict(ends=dict(kind="landmarks", points=names, flip_pairs=[]))
    full = ["a.png", "10", "10", "30", "10", "20", "39"]
    root = write(tmp_path, full, [*full[:5], "", ""], [*full[:5], "20", "20"], header=header)
    dataset = make(root, "labels.csv", labels, pipeline=PIPELINE, box_seed=3)
    boxes = [results["landmarks"] for results in map(dataset.results_of, range(3))]
    assert len(boxes[1]) == 2
    sides = [np.ptp(box, axis=0).max() for box in boxes]
    assert sides == [29, 20, 20]


@pytest.mark.parametrize(
    ("box", "source"),
    [(BOX, "given"), ("landmarks", "perturbed"), ("whole", "whole"), (None, "perturbed")],
)
def test_the_option_box_sets_the_source_of_boxes(tmp_path, box, source):
    root = write(tmp_path, [*ROW, *GIVEN], [*ROW, *GIVEN], header=[*HEADER, *BOX])
    dataset = make(root, "labels.csv", LABELS, box=box, pipeline=PIPELINE)
    samples = [dataset[i]["data_samples"] for i in range(2)]
    assert [sample.box_source.split()[0] for sample in samples] == [source] * 2
    expected = dict(given=(4, 6, 30, 33), whole=(0, 0, 50, 40)).get(source)
    assert expected in (None, samples[0].box)


@pytest.mark.parametrize("box", [BOX, "landmarks", "whole"])
def test_a_box_without_a_region_box_step_is_refused(tmp_path, box):
    root = write(tmp_path, [*ROW, *GIVEN], header=[*HEADER, *BOX])
    pipeline = [dict(type="FaceBox", mode="jitter") if s == PIPELINE[1] else s for s in PIPELINE]
    with pytest.raises(ConfigError, match=r"box: expected .* RegionBox, .* found LoadImage, Face"):
        make(root, "labels.csv", LABELS, box=box, pipeline=pipeline)
    sample = make(root, "labels.csv", LABELS, pipeline=pipeline)[0]["data_samples"]
    assert sample.box_source.startswith("jittered")


def test_without_two_points_the_default_is_the_whole_picture(tmp_path):
    labels = dict(LABELS, ears=dict(kind="landmarks", points=["left"], flip_pairs=[]))
    dataset = make(write(tmp_path, ROW), "labels.csv", labels, pipeline=PIPELINE)
    assert dataset[0]["data_samples"].box_source == "whole picture"
    with pytest.raises(ConfigError, match="box: 'landmarks' needs"):
        make(str(tmp_path), "labels.csv", labels, box="landmarks")


FRACTIONS = dict(left_x="0.2", left_y="0.4", right_x="0.8", right_y="0.4")


@pytest.mark.parametrize("box", [BOX, "landmarks", None])
@pytest.mark.parametrize("ears", [NO_EARS, ONE_EAR, FRACTIONS])
def test_rows_without_a_box_are_refused(tmp_path, box, ears):
    lacks = [""] * 4 if box == BOX else GIVEN
    rows = [[*ROW, *GIVEN], [*changed(**ears), *lacks], [*changed(**ears), *lacks]]
    root = write(tmp_path, *rows, header=[*HEADER, *BOX])
    with pytest.raises(DataError, match=r"labels\.csv:3: (its|fewer) .* in 2 of 3 rows; set box"):
        make(root, "labels.csv", LABELS, box=box, pipeline=PIPELINE)
    make(root, "labels.csv", LABELS, box=box)  # labels alone need no boxes
    dataset = make(root, "labels.csv", LABELS, box="whole", pipeline=PIPELINE)
    assert {dataset[i]["data_samples"].box_source for i in range(3)} == {"whole picture"}


def test_unusable_boxes_name_their_line(tmp_path):
    for bad in (["4", "6", "30", ""], ["4", "6", "2", "9"], ["0.1", "0.2", "0.9", "0.7"]):
        root = write(tmp_path, [*ROW, *bad], header=[*HEADER, *BOX])
        with pytest.raises(
            DataError, match=r"labels\.csv:2: expected (y1 in pix|x0 < x1 and y0 <)"
        ):
            make(root, "labels.csv", LABELS, box=BOX, pipeline=PIPELINE)


def test_training_samples_around_a_given_box(make_results):
    from trn_plugin.datasets import RegionBox

    boxes = []
    for seed in range(200):
        results = make_results(np.zeros((200, 200, 3), np.uint8), np.zeros((5, 2)), seed=seed)
        boxes.append(RegionBox(training=True)(dict(results, region=(50, 60, 150, 140)))["box"])
    boxes = np.array(boxes)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert np.allclose(width / height, 100 / 80, atol=0.05)
    assert width.min() >= 84
    assert 115 < width.max() <= 121
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 - [100, 100]
    assert (np.abs(middle) <= [8, 6.6]).all()
    assert (np.abs(middle).max(0) >= [5, 4]).all()


@pytest.fixture
def make_ends(tmp_path):
    """A function: pictures of points that lie further apart the larger 'size' is."""

    def make_ends(pictures=True, **kwargs):
        rng = np.random.default_rng(0)
        rows = ["image,top_x,top_y,low_x,low_y,size"]
        for number in range(80):
            x, y, size = rng.uniform(60, 90), rng.uniform(60, 90), rng.uniform(8, 40)
            rows.append(f"{number}.png,{x},{y - size},{x},{y + size},{size}")
            if pictures:
                Image.new("RGB", (150, 140)).save(tmp_path / f"{number}.png")
        (tmp_path / "labels.csv").write_text("\n".join(rows))
        return TabularMultiTask(str(tmp_path), "labels.csv", ENDS_AND_SIZE, **kwargs)

    return make_ends


def records_of(dataset):
    return [dataset.results_of(index) for index in range(len(dataset))]


def placed(dataset, *steps):
    return placement(records_of(dataset), steps, [True] * len(dataset))


def tau(dataset, place):
    found = label_features(records_of(dataset), read_tasks(dataset.metainfo["tasks"]), place=place)
    centred = [values - values.mean(0) for values in found.values()]
    bases = [np.linalg.qr(values[:, np.ptp(values, 0) > 1e-9])[0] for values in centred]
    return np.linalg.svd(bases[0].T @ bases[1])[1][0]


def test_size_is_related_in_whole_pictures_and_not_in_boxes_around_points(make_ends):
    dataset = make_ends()
    place, about = placed(dataset, dict(type="FaceBox", mode="whole"))
    np.testing.assert_allclose(place(79, np.array([[75.0, 70]])), [[0.5, 0.5]])
    assert about.endswith("whole picture")
    assert tau(dataset, place) > 0.99
    exact, _ = placed(dataset, dict(type="FaceBox", mode="landmarks"))
    assert tau(dataset, exact) < 0.6
    assert tau(dataset, None) > 0.99


def test_the_boxes_are_those_of_the_pipeline(make_ends):
    steps = [dict(type="LoadImage"), dict(type="RegionBox", training=False)]
    rest = [dict(type="CropResize", size=8), dict(type="PackMultiTaskInputs")]
    dataset = make_ends(pipeline=steps + rest)
    place, about = placed(dataset, *steps)
    assert "perturbed" in about
    for index in range(0, 80, 9):
        sample = dataset[index]["data_samples"]
        points = dataset.get_data_info(index)["gt"]["ends"]
        np.testing.assert_allclose(place(index, points), sample.gt["ends"], atol=1e-6)


def test_missing_pictures_have_no_box(make_ends):
    dataset = make_ends(pictures=False)
    place, about = placed(dataset, dict(type="FaceBox", mode="whole"))
    assert place is None
    assert "80 crops unknown" in about
    assert placed(dataset, dict(type="LoadImage"))[0] is None


def test_picture_size_is_that_of_the_decoded_picture(tmp_path):
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
