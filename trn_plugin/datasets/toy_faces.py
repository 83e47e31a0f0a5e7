"""Cartoon faces in MTFL's file format, rendered on first use, for trying the package out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from trn_plugin.datasets.mtfl import MTFL
from trn_plugin.datasets.mtfl_format import MTFLRow, write_rows
from trn_plugin.datasets.toy_scene import random_picture
from trn_plugin.errors import DataError
from trn_plugin.registry import DATASETS

__all__ = ["ToyFaces", "make_toy_faces"]

STAMP = "toy_faces.json"
VERSION = 2  # of the files; increase it when they change
JPEG_QUALITY = 90
# Annotation file, folder of its pictures, path separator, as in MTFL.
HALVES = (("training.txt", "toy_train", "\\"), ("testing.txt", "toy_test", "/"))


@DATASETS.register_module()
class ToyFaces(MTFL):
    """MTFL's tasks on rendered faces; files are rendered on first use and read like MTFL's.

    Args:
        data_root: folder of the files.
        ann_file: ``training.txt`` or ``testing.txt``.
        seed: the same seed gives the same files.
        train_size: number of pictures in ``training.txt``.
        test_size: number of pictures in ``testing.txt``.
        val_size: number of rows of ``training.txt`` in the split 'val'.
        **kwargs: of `MTFL`.

    Raises:
        DataError: ``data_root`` holds anything but these toy faces.
    """

    METAINFO = dict(MTFL.METAINFO, dataset="ToyFaces")

    def __init__(
        self,
        data_root: str,
        ann_file: str = "training.txt",
        tasks: Sequence[str] = ("landmarks", "pose"),
        seed: int = 0,
        train_size: int = 2400,
        test_size: int = 600,
        val_size: int = 400,
        **kwargs: Any,
    ) -> None:
        self.settings = dict(seed=seed, train_size=train_size, test_size=test_size)
        super().__init__(data_root, ann_file, tasks, val_size=val_size, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Render the files if they are missing, then read them."""
        make_toy_faces(self.data_root, **self.settings)
        return super().load_data_list()

    def check_root(self) -> None:
        """Check nothing: missing files will be rendered."""


def make_toy_faces(
    data_root: str, seed: int = 0, train_size: int = 2400, test_size: int = 600
) -> None:
    """Render the toy faces into ``data_root``, unless they exist.

    They are rendered into a temporary folder, which is renamed when complete: several processes may
    run this at once, and an interrupted one leaves no partial data.

    Raises:
        DataError: ``data_root`` holds other files, or toy faces of other settings.
    """
    stamp = dict(version=VERSION, seed=seed, train_size=train_size, test_size=test_size)
    data_root = os.path.abspath(data_root)
    if _is_made(data_root, stamp):
        return
    parent, name = os.path.split(data_root)
    os.makedirs(parent, exist_ok=True)
    folder = tempfile.mkdtemp(prefix=f".{name}-", dir=parent)
    try:
        os.chmod(folder, 0o755)  # mkdtemp makes it readable by its owner alone
        _write(folder, stamp)
        try:
            os.rename(folder, data_root)
        except OSError:
            if not _is_made(data_root, stamp):  # another process has not rendered them either
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_made(data_root: str, stamp: dict) -> bool:
    """Whether ``data_root`` holds the faces of these settings; False if it is empty.

    Raises:
        DataError: it holds anything else.
    """
    if not os.path.exists(data_root) or (os.path.isdir(data_root) and not os.listdir(data_root)):
        return False
    try:
        with open(os.path.join(data_root, STAMP), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        raise DataError(
            f"'{data_root}' is not a folder of toy faces ({STAMP} is missing or unreadable): "
            "delete it, or choose another data_root"
        ) from None
    if found != stamp:
        raise DataError(
            f"'{data_root}' holds other toy faces: expected {stamp}, found {found}: delete it, or "
            "choose another data_root"
        )
    return True


def _write(folder: str, stamp: dict) -> None:
    sizes = (stamp["train_size"], stamp["test_size"])
    with tqdm(total=sum(sizes), desc="rendering toy faces", unit="face", mininterval=1) as progress:
        for half, (ann_file, pictures, separator) in enumerate(HALVES):
            os.mkdir(os.path.join(folder, pictures))
            rows = []
            for index in range(sizes[half]):
                # each picture depends on seed, half and index only
                key = np.random.SeedSequence(stamp["seed"], spawn_key=(half, index))
                path = f"{pictures}/{index + 1:05d}.jpg"
                image, row = random_picture(path, np.random.default_rng(key))
                _save(os.path.join(folder, path), image)
                rows.append(_one_based(row))
                progress.update()
            write_rows(os.path.join(folder, ann_file), rows, separator)
    with open(os.path.join(folder, STAMP), "w", encoding="utf-8") as file:
        json.dump(stamp, file)


def _one_based(row: MTFLRow) -> MTFLRow:
    """Shift points from pixel centres at 0.5 to MTFL's convention, centres at 1."""
    xs, ys = (tuple(value + 0.5 for value in values) for values in (row.xs, row.ys))
    return row._replace(xs=xs, ys=ys)


def _save(path: str, image: np.ndarray) -> None:
    """Write (H, W, 3) RGB as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tofile(path)
