import filecmp
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from trn_plugin.datasets import MTFL, ToyFaces
from trn_plugin.datasets.toy_drawing import draw_face
from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.datasets.toy_head import Face, landmarks
from trn_plugin.datasets.toy_scene import random_picture
from trn_plugin.errors import DataError

SIZES = dict(train_size=12, test_size=5)
ALL_TASKS = ("landmarks", "pose", "gender", "smile", "glasses")


def files(root):
    return sorted(
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in names
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "faces"
    make_toy_faces(str(root), seed=3, **SIZES)
    return str(root)


@pytest.fixture(scope="module")
def drawn():
    """Rows of 400 random faces, without their pictures."""
    return [random_picture("x", np.random.default_rng([5, i]))[1] for i in range(400)]


def test_made_on_first_use_and_read_as_mtfl(tmp_path):
    root = str(tmp_path / "a" / "faces")
    kwargs = dict(seed=1, **SIZES)
    train = ToyFaces(root, split="train", val_size=4, **kwargs)
    stamp = os.stat(os.path.join(root, "training.txt")).st_mtime_ns
    val = ToyFaces(root, split="val", val_size=4, **kwargs)
    test = ToyFaces(root, ann_file="testing.txt", tasks=ALL_TASKS, **kwargs)
    assert (len(train), len(val), len(test)) == (8, 4, 5)
    assert os.stat(os.path.join(root, "training.txt")).st_mtime_ns == stamp
    assert train.metainfo["dataset"] == "ToyFaces"
    plain = MTFL(root, ann_file="testing.txt", tasks=ALL_TASKS)
    for i in range(len(test)):
        ours, theirs = test.get_data_info(i), plain.get_data_info(i)
        np.testing.assert_array_equal(ours["landmarks"], theirs["landmarks"])
        assert os.path.isfile(ours["img_path"])
        assert (ours["where"], ours["gt"]["pose"]) == (theirs["where"], theirs["gt"]["pose"])


def test_the_seed_determines_the_files(made, tmp_path):
    again, other = str(tmp_path / "again"), str(tmp_path / "other")
    make_toy_faces(again, seed=3, **SIZES)
    make_toy_faces(other, seed=4, **SIZES)
    names = files(made)
    assert len(names) == SIZES["train_size"] + SIZES["test_size"] + 3
    assert files(again) == names
    assert filecmp.cmpfiles(made, again, names, shallow=False) == (names, [], [])
    assert filecmp.cmpfiles(made, other, names, shallow=False) == ([], names, [])


def test_other_faces_or_files_are_refused(made, tmp_path, monkeypatch):
    before = files(made)
    with pytest.raises(DataError, match=r"other toy faces.*'seed': 9.*'seed': 3"):
        make_toy_faces(made, seed=9, **SIZES)
    with pytest.raises(DataError, match="other toy faces"):
        ToyFaces(made, seed=3)
    assert files(made) == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"is not a folder of toy faces.*choose another data_root"):
        make_toy_faces(str(tmp_path), **SIZES)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    monkeypatch.setattr("trn_plugin.datasets.toy_faces.VERSION", 10**6)
    with pytest.raises(DataError, match="other toy faces"):
        make_toy_faces(made, seed=3, **SIZES)


def test_an_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("trn_plugin.datasets.toy_faces.write_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        make_toy_faces(str(tmp_path / "faces"), **SIZES)
    assert os.listdir(tmp_path) == []


def test_several_processes_at_once_make_one_set(made, tmp_path):
    root = str(tmp_path / "faces")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: make_toy_faces(root, seed=3, **SIZES), range(4)))
    assert os.listdir(tmp_path) == ["faces"]
    names = files(made)
    assert filecmp.cmpfiles(made, root, names, shallow=False) == (names, [], [])
    assert json.loads(Path(root, "toy_faces.json").read_text())["seed"] == 3


def turn(row):
    """Horizontal offset of the nose from the midpoint of the eyes, in interocular distances."""
    eyes = np.array([row.xs[:2], row.ys[:2]])
    nose = np.array([row.xs[2], row.ys[2]])
    axis = eyes[:, 1] - eyes[:, 0]
    return (nose - eyes.mean(axis=1)) @ axis / (axis @ axis)


def assert_pose_matches_direction(rows):
    medians = [np.median([turn(row) for row in rows if row.pose == pose]) for pose in range(1, 6)]
    assert medians == sorted(medians)
    assert medians[0] < -0.3
    assert abs(medians[2]) < 0.06
    assert medians[4] > 0.3


def test_pose_classes_match_the_noses_direction(drawn):
    assert_pose_matches_direction(drawn)


@pytest.mark.real_data
def test_mtfls_pose_classes_match_the_noses_direction(mtfl_root):
    from trn_plugin.datasets.mtfl_format import read_rows

    assert_pose_matches_direction(read_rows(os.path.join(mtfl_root, "training.txt")))


@pytest.mark.parametrize("yaw", [-30, 0, 25])
@pytest.mark.parametrize("roll", [-20, 0, 15])
def test_eyes_are_rendered_at_their_landmarks(yaw, roll):
    face = Face(yaw=yaw, roll=roll, scale=60, center=(80, 80), iris=(0, 0, 255), ambient=0.9)
    image = draw_face(np.full((160, 160, 3), 90, np.uint8), face).astype(int)
    blue = (image[..., 2] - image[..., 0] > 60).astype(np.uint8)
    count, _, _, centers = cv2.connectedComponentsWithStats(blue)
    assert count == 3
    eyes = landmarks(face)[:2]
    for eye in eyes:
        assert min(np.hypot(*(center + 0.5 - eye)) for center in centers[1:]) < 2.5
