import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from trn_plugin.deploy.inputs import find_inputs, output_paths, read_boxes, whole_pixels
from trn_plugin.errors import DataError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_folders_give_pictures_videos_and_what_is_left_out(tmp_path):
    touch(tmp_path / "b.PNG", tmp_path / "a.jpg", tmp_path / "notes.txt", tmp_path / "sub/c.webp")
    touch(tmp_path / ".cache/d.jpg", tmp_path / "out/e.jpg", tmp_path.parent / "single.raw")
    touch(tmp_path / "sub/clip.MP4")
    cv2.imwrite(str(tmp_path / "moving.gif"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "moving.gif").rename(tmp_path / "no_suffix")
    found = find_inputs(
        [tmp_path, tmp_path.parent / "single.raw", tmp_path / "a.jpg"], exclude=tmp_path / "out"
    )
    names = [path.name for path in found.pictures]
    assert names == ["a.jpg", "b.PNG", "no_suffix", "c.webp", "single.raw"]
    assert [path.name for path in found.videos] == ["clip.MP4"]
    assert [path.name for path in found.left_out] == ["notes.txt"]
    assert found.left_out_message().startswith("1 file left out")
    assert "notes.txt" in found.left_out_message()


def test_missing_pictures_and_empty_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: no such picture"):
        find_inputs([tmp_path / "gone.jpg"])
    touch(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="a folder without pictures"):
        find_inputs([tmp_path])


def test_boxes_are_read_with_their_pictures(tmp_path, monkeypatch):
    touch(tmp_path / "beside.jpg", tmp_path / "here/current.jpg")
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "boxes.csv"
    path.write_bytes(
        b"\xef\xbb\xbfscore,image,x0,y0,x1,y1\r\n"
        b".9,beside.jpg,1.4,2.6,30,40\r\n"
        b".8,current.jpg,-5, 0,7,8\r\n"
    )
    faces = read_boxes(path)
    assert faces == [
        (tmp_path / "beside.jpg", (1, 3, 30, 40), f"{path}:2"),
        (Path("current.jpg"), (-5, 0, 7, 8), f"{path}:3"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"boxes\.csv:1: expected the columns image,x0,y0,x1,y1, found none"),
        ("image,x0,y0\n", "found image,x0,y0"),
        ("image,x0,y0,x1,y1\n", "holds no boxes"),
        ("image,x0,y0,x1,y1\na.jpg,1,2,3,4\na.jpg,1,2,3\n", r"boxes\.csv:3: expected 5 values"),
        (
            "image,x0,y0,x1,y1\na.jpg,1,2,3,4\na.jpg,1,2,3,4,5,6\n",
            r"boxes\.csv:3: expected 5 values, found",
        ),
        ("image,x0,y0,x1,y1\na.jpg,1,2,x,4\n", r"boxes\.csv:2: expected four numbers"),
        ("image,x0,y0,x1,y1\na.jpg,1,2,1,4\n", r"boxes\.csv:2: box \(1, 2, 1, 4\) is empty"),
        ("image,x0,y0,x1,y1\nb.jpg,1,2,3,4\n", r"boxes\.csv:2: no such picture: b\.jpg"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, text, message):
    touch(tmp_path / "a.jpg")
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_boxes(path)


def test_a_missing_or_binary_file_of_boxes_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: cannot read the boxes"):
        read_boxes(tmp_path / "gone.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"binary\.csv:\d+: not a CSV file in UTF-8"):
        read_boxes(tmp_path / "binary.csv")


@pytest.mark.parametrize("values", ["1 2 3 nan", "1 2 3 inf", "1 2 3 x", "3 2 1 4"])
def test_no_box_comes_from_bad_numbers(values):
    with pytest.raises(DataError, match="--box"):
        whole_pixels(values.split(), "--box")


def test_outputs_differ_from_each_other_and_from_the_inputs(tmp_path):
    pictures = [
        tmp_path / "a/face.jpg",
        tmp_path / "b/face.jpg",
        tmp_path / "b/FACE.png",
        tmp_path / "c/b/face.jpg",
        tmp_path / "out/face_predicted.jpg",
        tmp_path / "out/face.jpg",
    ]
    outputs = output_paths(pictures, tmp_path / "out", [".jpg"] * len(pictures))
    names = {os.path.realpath(path).casefold() for path in [*outputs, *pictures]}
    assert len(names) == 2 * len(pictures)
    assert all(path.parent == tmp_path / "out" for path in outputs)
    assert outputs == output_paths(pictures, tmp_path / "out", [".jpg"] * len(pictures))
