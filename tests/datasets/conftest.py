import os
from pathlib import Path

import numpy as np
import pytest
from celeba_files import make_celeba

from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.tasks import read_tasks

TRAIN_SIZE, TEST_SIZE = 60, 20


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory):
    """A small set of toy faces, in MTFL's layout."""
    root = tmp_path_factory.mktemp("toy") / "faces"
    make_toy_faces(str(root), seed=0, train_size=TRAIN_SIZE, test_size=TEST_SIZE)
    return str(root)


def real_data(name, file, variable):
    """The root of real data; skips where it is absent."""
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data" / name
    root = Path(os.environ.get(variable, shared))
    if not (root / file).is_file():
        pytest.skip(f"no {name} data: set {variable}")
    return str(root)


@pytest.fixture
def own(tmp_path):
    """A toy CelebA that a test may damage, and its labels."""
    return tmp_path, make_celeba(tmp_path, count=8, size=(45, 54))


@pytest.fixture(scope="session")
def mtfl_root():
    return real_data("MTFL", "training.txt", "MTFL_ROOT")


@pytest.fixture(scope="session")
def celeba_root():
    return real_data("CelebA", "list_attr_celeba.txt", "CELEBA_ROOT")


@pytest.fixture
def make_results():
    """A function that gives a pipeline's results for a picture and its labels in pixels."""

    def make(image, landmarks, pose=1, smile=1.0, seed=0):
        landmarks = np.asarray(landmarks, dtype=np.float64)
        tasks = dict(
            landmarks=dict(
                kind="landmarks", names=tuple("abcde"), flip=(1, 0, 2, 4, 3), interocular=(0, 1)
            ),
            pose=dict(kind="class", classes=tuple("abcde"), flip=(4, 3, 2, 1, 0)),
            smile=dict(kind="attributes", names=("smiling",)),
        )
        return dict(
            img=image,
            img_path="picture.png",
            ori_shape=image.shape[:2],
            gt=dict(landmarks=landmarks, pose=pose, smile=np.array([smile], dtype=np.float32)),
            landmarks=landmarks,
            tasks=read_tasks(tasks),
            input_size=None,
            rng=np.random.default_rng(seed),
            eval_seed=(0, seed),
            where="rows.txt:1",
        )

    return make
