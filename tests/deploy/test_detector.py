"""Faces found by OpenCV's YuNet, with a small stand-in for its file, and by other detectors."""

import re
import warnings

import cv2
import numpy as np
import pytest
from test_predict import read_lines, run
from tiny_detector import write_tiny_detector

from trn_plugin.deploy import TaskPredictor
from trn_plugin.deploy.crops import crop_around, describe_crop
from trn_plugin.deploy.detector import Detection, FaceDetector, detections
from trn_plugin.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def yunet(tmp_path_factory):
    return write_tiny_detector(tmp_path_factory.mktemp("detector") / "yunet.onnx")


def two_squares(height=128, width=160):
    """White squares of 32 pixels at (64, 32) and (0, 96)."""
    image = np.zeros((height, width, 3), np.uint8)
    image[32:64, 64:96] = image[96:128, 0:32] = 255
    return image


def test_faces_have_boxes_and_points_in_pixels(yunet):
    found = sorted(FaceDetector(yunet)(two_squares()), key=lambda face: face.box)
    np.testing.assert_allclose([face.box for face in found], [(0, 96, 32, 128), (64, 32, 96, 64)])
    np.testing.assert_allclose(found[1].points[[0, 4]], [(72, 40), (88, 56)])
    assert FaceDetector(yunet)(np.zeros((50, 40, 3), np.uint8)) == []


def test_large_pictures_are_searched_at_a_smaller_size(yunet):
    image = cv2.resize(two_squares(640, 640), (2560, 2560), interpolation=cv2.INTER_NEAREST)
    found = sorted(FaceDetector(yunet)(image), key=lambda face: face.box)
    covered = np.array([face.box for face in found])
    assert covered[:, 0].min() == 0
    assert covered[:, 2].max() == pytest.approx(96 * 4)
    assert covered[:, 3].max() == pytest.approx(128 * 4)


def test_other_files_are_refused_in_one_line(tmp_path, mean_colour_model):
    with pytest.raises(CheckpointError, match="no such file"):
        FaceDetector(str(tmp_path / "gone.onnx"))
    with pytest.raises(CheckpointError, match="YuNet"):
        FaceDetector(str(mean_colour_model))(two_squares())
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(CheckpointError, match="YuNet face detector") as caught:
        FaceDetector(str(tmp_path / "text.onnx"))
    assert "opencv/modules" not in str(caught.value)


def test_a_detection_becomes_the_crop_of_training():
    face = Detection((10, 20, 50, 80), np.array([[20.0, 30], [40, 30], [30, 50]]))
    assert crop_around(describe_crop("points", 2.0), *face) == (10, 20, 50, 60)
    assert crop_around(describe_crop("given"), *face) == (10, 20, 50, 80)
    for crop in (None, describe_crop("whole"), describe_crop("points", 2.0)):
        x0, y0, x1, y1 = crop_around(crop, face.box)
        assert (x1 - x0, y1 - y0) == (72, 72)
        assert ((x0 + x1) / 2, (y0 + y1) / 2) == (30, 50)


def test_the_predictor_takes_any_function_as_detector(mean_colour_model):
    predictor = TaskPredictor(str(mean_colour_model))
    predictor.metadata["crop"] = describe_crop("given")
    image = two_squares()
    boxes = [(64, 32, 96, 64), (0, 0, 64, 32)]
    (found,) = predictor.predict_objects(image, lambda picture: boxes)
    assert [each["box"] for each in found] == boxes
    expected = predictor.predict([image] * 2, boxes)
    for each, reference in zip(found, expected, strict=True):
        assert each["pose"] == reference["pose"]
        np.testing.assert_array_equal(each["landmarks"], reference["landmarks"])
    assert predictor.predict_objects([image, image], lambda picture: []) == [[], []]
    with pytest.warns(UserWarning, match=r"picture 0: box \(900, .* lies outside .*; left out"):
        (left,) = predictor.predict_objects(image, lambda picture: [(900, 0, 930, 9), *boxes])
    assert [each["box"] for each in left] == boxes


def test_results_of_files_hold_their_path_and_a_model_of_crops_warns_once(
    tmp_path, mean_colour_model
):
    predictor = TaskPredictor(str(mean_colour_model))
    predictor.metadata["crop"] = describe_crop("given")
    (tmp_path / "photos").mkdir()
    for name in ("b", "a"):
        cv2.imwrite(str(tmp_path / f"photos/{name}.png"), two_squares())
    paths = [str(tmp_path / f"photos/{name}.png") for name in "ab"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert [found["path"] for found in predictor.predict(tmp_path / "photos")] == paths
    assert ["trained on crops" in str(each.message) for each in caught].count(True) == 1
    found = predictor.predict_objects(tmp_path / "photos", lambda picture: [(0, 0, 9, 9)])
    assert [each["path"] for (each,) in found] == paths


WRONG = {
    "three numbers": ([(1, 2, 3)], "expected boxes"),
    "text": (["abcd"], "expected boxes"),
    "not a number": ([(0, 0, float("nan"), 4)], "expected boxes"),
    "None": (None, "expected boxes .* found None"),
    "the wrong way round": ([(81, 74, 15, 8)], "x0 < x1 and y0 < y1, found .81, 74, 15, 8"),
    "points": ([Detection((0, 0, 9, 9), [(1, 2), (float("nan"), 3)])], "expected points"),
}


@pytest.mark.parametrize("given", WRONG)
def test_invalid_detections_are_named(given):
    found, message = WRONG[given]
    with pytest.raises(ConfigError, match=f"picture 0: .*{message}"):
        detections(lambda image: found, two_squares(), "picture 0")


def test_predict_finds_all_faces_of_all_pictures(tmp_path, yunet, write_model, metadata):
    metadata["crop"] = describe_crop("points", 4.0)
    model = write_model(tmp_path / "model.onnx", metadata)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), two_squares())
    cv2.imwrite(str(tmp_path / "photos/b.png"), np.zeros((40, 40, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "photos/c.png"), two_squares()[:96])
    done = run(model, "photos", "--detector", yunet, "--csv", "t.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "photos/a.png: 2 faces: " in done.stdout
    assert "photos/b.png: 0 faces" in done.stdout
    assert "photos/c.png: 1 face: " in done.stdout
    records = read_lines(tmp_path / "predictions/predictions.jsonl")
    assert [record["image"] for record in records] == ["photos/a.png"] * 2 + ["photos/c.png"]
    sides = {record["box"][2] - record["box"][0] for record in records}
    assert sides == {64}  # the points span 16 pixels
    assert "trained on crops" not in done.stderr
    run(model, "photos/b.png", "--detector", yunet, "--csv", "t.csv", cwd=tmp_path)  # no face
    assert not read_lines(tmp_path / "predictions/predictions.jsonl")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1
    done = run(model, "photos", cwd=tmp_path)
    assert done.stderr.count("was trained on crops") == 1


def test_errors_with_and_without_a_detector(tmp_path, yunet, write_model, metadata, run_tool):
    metadata["crop"] = describe_crop("given")
    model = write_model(tmp_path / "model.onnx", metadata)
    cv2.imwrite(str(tmp_path / "a.png"), two_squares())  # found: the square at (64, 32)
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((40, 40, 3), np.uint8))  # no face
    (tmp_path / "labels.csv").write_text(
        "image,left_x,left_y,right_x,right_y\na.png,70,64,90,64\nb.png,1,2,3,4\n"
    )
    points = "points=['left', 'right'], interocular=['left', 'right'], flip_pairs=[]"
    (tmp_path / "config.py").write_text(
        "model = dict(type='MultiTaskModel')\n"
        "test_dataloader = dict(dataset=dict(type='TabularMultiTask', ann_file='labels.csv', "
        f"data_root={str(tmp_path)!r}, labels=dict(landmarks=dict(kind='landmarks', {points})), "
        "pipeline=[dict(type='LoadImage')]))\n"
    )
    status, printed, errors = run_tool(
        "compare_detector", tmp_path / "config.py", model, "--detector", yunet
    )
    assert status == 0, errors
    assert "a face found in 1 of 2 pictures" in printed
    # a white crop: both points at its lower right corner, (96, 64), of eyes 20 pixels apart
    assert re.search(r"detected face +NME +80.00 %, faces: 1", printed)
    assert re.search(r"whole picture +NME", printed)
