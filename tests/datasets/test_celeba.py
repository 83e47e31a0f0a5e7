import copy
import math
import os
import pickle
import time

import numpy as np
import pytest
from celeba_files import DOWNLOAD, FLAT, PIPELINE, make_celeba, records

from trn_plugin.datasets import CelebA, SampleDraw
from trn_plugin.datasets.celeba_format import ATTRIBUTES
from trn_plugin.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Root and labels of a toy CelebA with landmarks and boxes."""
    root = tmp_path_factory.mktemp("celeba")
    return str(root), make_celeba(root, geometry=True)


@pytest.mark.parametrize("layout", [FLAT, DOWNLOAD])
@pytest.mark.parametrize("nest", [".", "celeba", "CelebA"])
def test_every_layout_gives_the_same(tmp_path, layout, nest):
    expected = make_celeba(tmp_path / nest, count=8, layout=layout, size=(45, 54))
    dataset = CelebA(str(tmp_path), pipeline=PIPELINE)
    labels = [record["gt"]["attributes"] for record in records(dataset)]
    np.testing.assert_array_equal(labels, expected["labels"])
    assert dataset[3]["inputs"].shape == (3, 32, 24)


def test_splits_are_those_of_the_partition(faces):
    root, expected = faces
    sizes = {}
    for split in ("train", "val", "test", None):
        dataset = CelebA(root, split=split)
        sizes[split] = len(dataset)
        for record in records(dataset):
            row = expected["names"].index(os.path.basename(record["img_path"]))
            np.testing.assert_array_equal(record["gt"]["attributes"], expected["labels"][row])
            assert record["where"] == f"list_eval_partition.txt:{row + 1}"
    assert sizes == {"train": 12, "val": 6, "test": 6, None: 24}


def test_the_partition_selects_the_rows(faces, tmp_path):
    root, expected = faces
    path = tmp_path / "mine.txt"
    chosen = [17, 2, 9]
    path.write_text("".join(f"{expected['names'][row]} 2\n" for row in chosen))
    dataset = CelebA(root, partition=str(path), split="test")
    labels = [record["gt"]["attributes"] for record in records(dataset)]
    np.testing.assert_array_equal(labels, expected["labels"][chosen])
    with pytest.raises(DataError, match=r"mine\.txt: no row of the split 'train'"):
        CelebA(root, partition=str(path), split="train")


def test_attributes_by_name_as_groups_and_alone(faces):
    root, expected = faces
    labels = expected["labels"]
    dataset = CelebA(
        root,
        tasks=("Wearing_Hat", "group_b", "attributes", "group_a", "hair", "_5_o_Clock_Shadow"),
        attributes=("Young", "Bald"),
        groups=dict(hair=("Gray_Hair", "Bangs", "Bald")),
    )
    info = dataset.metainfo["tasks"]
    assert info["group_a"]["names"] + info["group_b"]["names"] == ATTRIBUTES
    for task, described in info.items():
        columns = [ATTRIBUTES.index(name) for name in described["names"]]
        found = [record["gt"][task] for record in records(dataset)]
        np.testing.assert_array_equal(found, labels[:, columns])
        np.testing.assert_allclose(
            dataset.labels_of(task).mean(axis=0), labels[:, columns].mean(axis=0)
        )
    assert info["attributes"]["names"] == ("Young", "Bald")
    assert info["_5_o_Clock_Shadow"]["names"] == ("5_o_Clock_Shadow",)


def test_tasks_none_gives_one_task_for_each_attribute(faces):
    tasks = CelebA(faces[0], tasks=None).tasks
    assert len(tasks) == 40
    assert all(task.isidentifier() for task in tasks)
    assert CelebA(faces[0], tasks=None, attributes=("Male", "Bald")).tasks == ("Male", "Bald")


def test_labels_are_those_of_the_chosen_rows(faces):
    root, expected = faces
    dataset = CelebA(root, split="val", indices=[4, 1])
    rows = [12 + 4, 12 + 1]
    np.testing.assert_allclose(
        dataset.labels_of("attributes").mean(axis=0), expected["labels"][rows].mean(axis=0)
    )
    with pytest.raises(ConfigError, match="no task 'smile'"):
        CelebA(root, tasks=("landmarks",)).labels_of("smile").mean(axis=0)


def test_landmarks_and_mirrors(faces):
    root, expected = faces
    dataset = CelebA(root, tasks=("landmarks", "Male"), pipeline=PIPELINE)
    np.testing.assert_array_equal(
        [record["gt"]["landmarks"] for record in records(dataset)], expected["points"]
    )
    fractions = expected["points"] / (178, 218)
    flips = set()
    for i in range(len(dataset)):
        found = dataset[i]["data_samples"].gt["landmarks"].numpy()
        mirrored = fractions[i][[1, 0, 2, 4, 3]] * (-1, 1) + (1, 0)
        flipped = abs(found - fractions[i]).max() > 1e-6
        np.testing.assert_allclose(found, mirrored if flipped else fractions[i], atol=1e-6)
        flips.add(flipped)
    assert flips == {True, False}


def test_landmarks_follow_pictures_of_another_scale(tmp_path):
    expected = make_celeba(tmp_path, count=8, size=(89, 109), geometry=True)
    dataset = CelebA(str(tmp_path), tasks=("landmarks",), pipeline=PIPELINE)
    for record, points in zip(records(dataset), expected["points"], strict=True):
        np.testing.assert_allclose(record["gt"]["landmarks"], points / 2)


def test_boxes_need_the_pictures_in_the_wild(faces, tmp_path):
    root, expected = faces
    with pytest.raises(ConfigError, match=r"'bbox' is in pixels of the pictures in the wild"):
        CelebA(root, tasks=("bbox",))
    make_celeba(tmp_path, geometry=True)
    os.rename(tmp_path / "img_align_celeba", tmp_path / "img_celeba")
    dataset = CelebA(str(tmp_path), tasks=("bbox", "landmarks"), images="img_celeba")
    for record, (x, y, width, height) in zip(records(dataset), expected["boxes"], strict=True):
        corners = record["gt"]["bbox"]
        assert corners.min(axis=0).tolist() == [x, y]
        assert corners.max(axis=0).tolist() == [x + width, y + height]
    # mirrored, the corners are those of the mirrored box
    flip = list(dataset.metainfo["tasks"]["bbox"]["flip"])
    mirrored = corners[flip] * (-1, 1)
    assert mirrored[0].tolist() == [-(x + width), y]
    assert mirrored[2].tolist() == [-x, y + height]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            dict(tasks=("Wearing_hat",)),
            r"^tasks: there is no 'Wearing_hat'; did you mean 'Wearing_Hat'",
        ),
        (dict(tasks="Bald"), r"^tasks: expected a list"),
        (dict(attributes=("Wearing_hat",)), r"^attributes: .*did you mean 'Wearing_Hat'\?"),
        (dict(attributes=("Bald", "Bald")), r"^attributes: .*each once"),
        (dict(attributes="Bald"), r"^attributes: expected a list"),
        (dict(attributes=[]), r"^attributes: expected a list"),
        (dict(ann_file="list_eval_partition.txt"), r"^ann_file: .*set partition"),
        (dict(groups=dict(hair=("Bold",))), r"^groups\.hair: there is no 'Bold'"),
        (dict(groups=dict(landmarks=("Bald",))), r"^groups\.landmarks: this name is taken"),
        (dict(split="training"), r"^split: expected None or one of .*'training'"),
    ],
)
def test_mistakes_are_config_errors(faces, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        CelebA(faces[0], **kwargs)


def test_missing_files_are_named(own):
    root, _ = own
    with pytest.raises(DataError, match=r"nowhere' is not a folder: set CELEBA_ROOT.*mmlab\.ie"):
        CelebA(str(root / "nowhere"))
    with pytest.raises(DataError, match=r"file 'other\.txt' is missing.*CELEBA_ROOT"):
        CelebA(str(root), partition="other.txt")
    with pytest.raises(DataError, match=r"folder 'img_celeba' of the pictures is missing"):
        CelebA(str(root), images="img_celeba", pipeline=PIPELINE)
    path = root / "list_attr_celeba.txt"
    text = path.read_text()
    path.write_text(text.replace("Wearing_Hat", "Wearing_Cap"))
    with pytest.raises(DataError, match=r"celeba\.txt:2: expected the attribute Wearing_Hat"):
        CelebA(str(root))
    assert len(CelebA(str(root), tasks=("Bald",))) == 8  # which the file does have
    lines = text.splitlines()
    path.write_text("\n".join(["7", *lines[1:5], *lines[6:], ""]))
    with pytest.raises(DataError, match=r"partition\.txt:4: 000004\.jpg has no row in .*attr"):
        CelebA(str(root))


def test_indices(faces):
    assert [record["row"] for record in records(CelebA(faces[0], indices=-2))] == [23, 24]


def test_copies_and_pickles(faces):
    dataset = CelebA(faces[0], pipeline=PIPELINE, split="val")
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        draw = SampleDraw(2, epoch=1)
        np.testing.assert_array_equal(other[draw]["inputs"], dataset[draw]["inputs"])
        assert other.metainfo == dataset.metainfo
    subset = dataset.get_subset([3, 1])
    assert [record["row"] for record in records(subset)] == [16, 14]


@pytest.mark.real_data
def test_real_labels_and_pictures(celeba_root):
    start = time.process_time()
    dataset = CelebA(celeba_root)
    assert time.process_time() - start < 3
    assert len(dataset) == 202_599
    assert [len(CelebA(celeba_root, split=s)) for s in ("train", "val", "test")] == [
        162_770,
        19_867,
        19_962,
    ]
    share = dataset.labels_of("attributes").mean(axis=0)[ATTRIBUTES.index("Smiling")]
    assert math.isclose(share, 0.4821, abs_tol=1e-4)
    dataset = CelebA(
        celeba_root, "list_eval_partition_8k.txt", split="val", pipeline=PIPELINE, indices=20
    )
    assert dataset[19]["data_samples"].ori_shape == (109, 89)


def test_a_partition_by_path(own, monkeypatch):
    root, _ = own
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "mine.txt").write_text("000002.jpg 0\n")
    monkeypatch.chdir(root / "elsewhere")
    for path in ("mine.txt", "./mine.txt", str(root / "elsewhere" / "mine.txt")):
        assert len(CelebA(str(root), partition=path, split="train")) == 1


def test_an_unneeded_landmark_file_is_not_read(own):
    root, _ = own
    (root / "list_landmarks_align_celeba.txt").write_text("no\nlandmarks\n")
    assert len(CelebA(str(root), pipeline=PIPELINE)) > 0
    boxed = [PIPELINE[0], dict(type="trn_plugin.FaceBox", mode="jitter"), *PIPELINE[2:]]
    with pytest.raises(DataError, match="list_landmarks_align_celeba"):
        CelebA(str(root), pipeline=boxed)
