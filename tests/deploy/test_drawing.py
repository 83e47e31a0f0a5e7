import numpy as np
import pytest

from trn_plugin.deploy import draw_objects
from trn_plugin.deploy.drawing import summary_lines
from trn_plugin.tasks import read_tasks

FACE = read_tasks(
    {
        "landmarks": {"kind": "landmarks", "names": ["eye", "mouth"]},
        "pose": {"kind": "class", "classes": ["left", "right profile"]},
        "attributes": {"kind": "attributes", "names": [f"attribute {i}" for i in range(40)]},
    }
)


def prediction(points=((10, 10), (20, 20)), seed=0):
    probabilities = np.random.default_rng(seed).permutation(np.linspace(0.01, 0.99, 40))
    return {
        "landmarks": np.array(points, dtype=np.float32),
        "pose": {"label": "right profile", "index": 1, "probabilities": [0.25, 0.75]},
        "attributes": {f"attribute {i}": float(p) for i, p in enumerate(probabilities)},
    }


def test_summary_names_classes_and_attributes():
    lines = summary_lines(FACE, prediction())
    assert lines[0] == "pose: right profile 0.75"
    assert len(lines) == 41


@pytest.mark.parametrize(
    "shape", [(1, 1), (4, 900), (900, 4), (48, 64), (96, 96), (400, 400), (600, 800)]
)
def test_a_small_picture_is_enlarged_and_none_is_shrunk(shape):
    drawn = draw_objects(np.zeros((*shape, 3), np.uint8), FACE, [prediction()])
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] >= shape[0]
    assert drawn.shape[1] > shape[1]
    assert max(drawn.shape[:2]) >= 320


def test_text_stays_beside_the_picture():
    image = np.full((400, 400, 3), 90, np.uint8)
    tasks = {name: task for name, task in FACE.items() if name != "landmarks"}
    drawn = draw_objects(image, tasks, [prediction()])
    np.testing.assert_array_equal(drawn[:400, :400], image)
    assert drawn[:, 400:].max() > 200


def test_the_given_picture_is_not_modified():
    image = np.full((400, 400, 3), 90, np.uint8)
    draw_objects(image, FACE, [prediction()], [(10, 10, 200, 200)])
    assert (image == 90).all()


@pytest.mark.parametrize("side", [40, 160, 640])
def test_points_are_drawn_where_they_are(side):
    points = np.array([[0.25, 0.5], [0.75, 0.25]]) * side
    tasks = {"landmarks": FACE["landmarks"]}
    drawn = draw_objects(np.zeros((side, side, 3), np.uint8), tasks, [prediction(points)])
    factor = drawn.shape[0] / side
    green = (drawn[..., 1] > 128) & (drawn[..., 0] < 128)
    for point in points:
        x, y = (point * factor).round().astype(int)
        near = green[y - 15 : y + 15, x - 15 : x + 15]
        rows, columns = near.nonzero()
        assert len(rows) > 0
        assert abs(rows.mean() + 0.5 - 15) < 1
        assert abs(columns.mean() + 0.5 - 15) < 1


def test_points_and_boxes_may_lie_outside_the_picture():
    wild = prediction([[-500, 3], [float("nan"), 1e12]])
    drawn = draw_objects(np.zeros((64, 64, 3), np.uint8), FACE, [wild], [(-30, -30, 900, 20)])
    assert drawn.shape[0] >= 320


@pytest.mark.parametrize(("count", "side"), [(2, 100), (60, 100), (1500, 1200)])
def test_all_objects_are_drawn_and_the_picture_can_be_written(count, side):
    boxes = [(i % 60, i % 60, i % 60 + 20, i % 60 + 20) for i in range(count)]
    tasks = {"pose": FACE["pose"]}
    drawn = draw_objects(np.zeros((side, side, 3), np.uint8), tasks, [prediction()] * count, boxes)
    assert max(drawn.shape[:2]) <= 16_000
    panel = drawn[:, max(side, 320) :]
    step = 18  # at most a line's height
    inked = (panel.max(axis=2) > 120).sum() / count
    assert inked > step  # every object left some text


def test_points_are_named_where_there_is_room():
    points = np.array([[100.0, 200.0], [300.0, 200.0]])
    tasks = {"landmarks": FACE["landmarks"]}
    drawn = draw_objects(np.zeros((400, 400, 3), np.uint8), tasks, [prediction(points)])
    small = draw_objects(
        np.zeros((400, 400, 3), np.uint8), tasks, [prediction(points)], [(90, 190, 130, 230)]
    )
    white = [(each.min(axis=2) > 200).sum() for each in (drawn, small)]
    assert white[0] > 20
    assert white[1] == 0


def test_frames_of_a_video_have_one_size():
    tasks = read_tasks(
        {
            "pose": {"kind": "class", "classes": ["up", "a class with quite a long name"]},
            "age": {"kind": "values", "names": ["years"]},
        }
    )
    image = np.zeros((90, 120, 3), np.uint8)
    shapes = set()
    for index in (0, 1):
        found = {"label": tasks["pose"].names[index], "index": index}
        found["probabilities"] = [0.5, 0.5]
        prediction = {"pose": found, "age": {"years": [0.5, -123456.0][index]}}
        shapes.add(draw_objects(image, tasks, [prediction], fixed_size=True).shape)
    assert len(shapes) == 1
