"""Predictions of every frame of a video."""

import csv

import cv2
import numpy as np
import pytest
from predict_tool import read_lines, run, write_picture


def write_video(path, count=7, rate=5.0):
    """Frames of 60 x 40 that grow brighter: their red is 0, 30, 60, ..."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (60, 40))
    for index in range(count):
        writer.write(np.full((40, 60, 3), (100, 50, 30 * index), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("box", "corner", "side"), [(None, (0, 0), 60), ((10, 5, 50, 25), (10, 5), 40)]
)
def test_every_frame_of_a_video(tmp_path, mean_colour_model, box, corner, side):
    write_video(tmp_path / "clip.avi")
    given = ("--box", *box) if box else ()
    arguments = ("--batch-size", 3, "--csv", "table.csv", *given)
    done = run(mean_colour_model, "clip.avi", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "clip.avi: 7 frames -> predictions/clip_predicted.mp4" in done.stdout
    assert "7/7 frames" in done.stderr
    records = read_lines(tmp_path / "predictions/predictions.jsonl")
    assert [record["frame"] for record in records] == list(range(7))
    assert [record["seconds"] for record in records] == pytest.approx([i / 5 for i in range(7)])
    for index, record in enumerate(records):
        assert record["image"] == "clip.avi"
        assert record["box"] == (list(box) if box else None)
        red = 30 * index / 255
        assert record["tasks"]["pose"]["probabilities"]["bright"] == pytest.approx(red, abs=0.02)
        x = record["tasks"]["landmarks"]["left"][0]
        assert x == pytest.approx(corner[0] + red * side, abs=0.03 * side)

    drawn = cv2.VideoCapture(str(tmp_path / "predictions/clip_predicted.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(5)
    frames = 0
    while (read := drawn.read())[0]:
        frames += 1
        assert read[1].shape[0] >= 320
        assert read[1].shape[1] > 320 * 60 / 40  # the text beside the picture
    assert frames == 7
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == list(range(7))


def test_videos_in_folders_are_found(tmp_path, mean_colour_model):
    (tmp_path / "both" / "clips").mkdir(parents=True)
    write_picture(tmp_path / "both" / "a.png")
    write_video(tmp_path / "both" / "clips" / "clip.avi", count=2)
    for _ in range(2):  # the drawings of the first run are no inputs of the second
        done = run(mean_colour_model, "both", "--out-dir", "both/found", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        records = read_lines(tmp_path / "both/found/predictions.jsonl")
        assert [record.get("frame") for record in records] == [None, 0, 1]
    done = run(mean_colour_model, "both/clips", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
