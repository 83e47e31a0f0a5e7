"""Missing, damaged and PNG pictures of CelebA."""

import os

import cv2
import numpy as np
import pytest
from celeba_files import PIPELINE, make_celeba, records
from torch.utils.data import DataLoader

from trn_plugin.datasets import CelebA
from trn_plugin.errors import DataError, PictureError


def test_missing_pictures_are_named_before_training(own):
    root, _ = own
    for name in ("000003.jpg", "000007.jpg"):
        (root / "img_align_celeba" / name).unlink()
    message = r"partition\.txt:3: no picture .*000003\.jpg; 2 of 8 pictures are missing"
    with pytest.raises(DataError, match=message):
        CelebA(str(root), pipeline=PIPELINE)
    assert len(CelebA(str(root))) == 8  # labels alone need no picture


def test_skipped_missing_pictures_are_logged(own, logged):
    root, expected = own
    (root / "img_align_celeba" / "000003.jpg").unlink()
    dataset = CelebA(str(root), pipeline=PIPELINE, skip_unreadable=True)
    kept = [row for row in range(8) if row != 2]
    labels = [record["gt"]["attributes"] for record in records(dataset)]
    np.testing.assert_array_equal(labels, expected["labels"][kept])
    assert "1 of 8 pictures are missing: left out (skip_unreadable)" in logged()


def damage(root, name):
    path = root / "img_align_celeba" / name
    path.write_bytes(path.read_bytes()[:200])


def test_a_truncated_picture_is_an_error_naming_file_and_line(own):
    root, _ = own
    damage(root, "000002.jpg")
    dataset = CelebA(str(root), pipeline=PIPELINE)
    with pytest.raises(PictureError, match=r"^list_eval_partition\.txt:2: .*000002\.jpg: not a"):
        dataset[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_pictures_have_no_labels_and_are_counted(own, logged, workers):
    root, _ = own
    damage(root, "000002.jpg")
    damage(root, "000005.jpg")
    dataset = CelebA(str(root), pipeline=PIPELINE, skip_unreadable=True)
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=list)
    for _ in range(2):  # a second epoch counts nothing twice
        samples = [sample for batch in loader for sample in batch]
        assert len(samples) == 8
        for i, sample in enumerate(samples):
            broken = i in (1, 4)
            assert ("attributes" in sample["data_samples"].gt) != broken
            assert (sample["inputs"].abs().sum() == 0) == broken
            assert sample["inputs"].shape == (3, 32, 24)
    if not workers:
        assert logged().count("left out (skip_unreadable)") == 2
        assert "list_eval_partition.txt:5: " in logged()
        assert "2 of 8 so far" in logged()


def test_other_errors_are_not_skipped(own):
    def fail(results):
        raise DataError("no")

    dataset = CelebA(str(own[0]), pipeline=[fail], skip_unreadable=True)
    with pytest.raises(DataError, match=r"partition\.txt:1: .*no"):
        dataset[0]


def test_png_pictures(tmp_path):
    make_celeba(tmp_path, count=4, size=(45, 54))
    os.rename(tmp_path / "img_align_celeba", tmp_path / "img_align_celeba_png")
    for path in (tmp_path / "img_align_celeba_png").iterdir():
        cv2.imwrite(str(path.with_suffix(".png")), cv2.imread(str(path)))
        path.unlink()
    dataset = CelebA(str(tmp_path), images="img_align_celeba_png", pipeline=PIPELINE)
    assert dataset[3]["data_samples"].img_path.endswith("000004.png")
