"""MTFL v1.0: five landmarks, head pose, gender, smile and glasses of 12,995 faces."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from trn_plugin.datasets._options import pixel_shift
from trn_plugin.datasets._pictures import DataRoot
from trn_plugin.datasets.base import MultiTaskDataset
from trn_plugin.datasets.mtfl_format import POSES, MTFLRow, read_rows
from trn_plugin.errors import ConfigError
from trn_plugin.registry import DATASETS

__all__ = ["MTFL"]

SOURCE = (
    "MTFL v1.0 comes from its authors' project page 'Facial Landmark Detection by Deep Multi-task "
    "Learning (TCDCN)', http://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html"
)


@DATASETS.register_module()
class MTFL(MultiTaskDataset):
    """Multi-Task Facial Landmark data set (Zhang et al., ECCV 2014), read as distributed.

    Tasks: ``landmarks`` (eyes, nose, mouth corners; "left" is the picture's left), ``pose`` (five
    classes; "left" means that the nose points to the picture's left), and the attributes ``gender``
    (1: male), ``smile`` (1: smiling), ``glasses`` (1: wearing them).

    The files count pixels from 1, as Matlab does: the centre of the first pixel is (1, 1). Labels
    are shifted to put it at (0.5, 0.5), as in crops and predictions; see
    ``docs/guides/pixel_centres.md``.

    The split depends only on ``split_seed``, path and row: of the rows ranked by a hash of the
    three, the first ``val_size`` are 'val', the others 'train'.

    Args:
        data_root: folder of the annotation files and pictures.
        ann_file: annotation file in it; ``testing.txt`` is the official test half.
        tasks: names of the tasks to use.
        split: 'train', 'val' or None for all rows.
        val_size: number of rows in 'val'.
        split_seed: seed of the split.
        pixel_centre: coordinate of the centre of the first pixel in the files, or (x, y).
        **kwargs: of `MultiTaskDataset`, such as ``pipeline``, ``input_size`` and ``indices`` (n:
            the first n rows of the split; -n: the last n; a list: those rows).

    Raises:
        ConfigError: an unknown task or split, or a ``val_size`` that leaves a split empty.
        DataError: the root or a file is missing (saying where to get the data), or a row cannot be
            used or leaves the root (naming file and line).
    """

    root_hint = f"set MTFL_ROOT, or data_root in the config; {SOURCE}"
    METAINFO = dict(
        dataset="MTFL",
        tasks=dict(
            landmarks=dict(
                kind="landmarks",
                names=("left_eye", "right_eye", "nose", "left_mouth", "right_mouth"),
                flip=(1, 0, 2, 4, 3),
                interocular=(0, 1),
            ),
            pose=dict(kind="class", classes=POSES, flip=(4, 3, 2, 1, 0)),
            gender=dict(kind="attributes", names=("male",)),
            smile=dict(kind="attributes", names=("smiling",)),
            glasses=dict(kind="attributes", names=("glasses",)),
        ),
    )

    def __init__(
        self,
        data_root: str,
        ann_file: str = "training.txt",
        tasks: Sequence[str] = ("landmarks", "pose"),
        split: str | None = None,
        val_size: int = 1000,
        split_seed: int = 0,
        pixel_centre: float | Sequence[float] = 1.0,
        **kwargs: Any,
    ) -> None:
        if split not in (None, "train", "val"):
            raise ConfigError(f"split: expected None, 'train' or 'val', found {split!r}")
        self.split = split
        self.val_size = val_size
        self.split_seed = split_seed
        self._shift = pixel_shift(pixel_centre)
        super().__init__(
            data_root=os.path.expanduser(data_root), ann_file=ann_file, tasks=tasks, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        """Read the annotation file; pictures are opened when they are used."""
        self.check_root()
        rows = self._split(read_rows(self.ann_file))
        name = os.path.basename(self.ann_file)
        records = [self._record(row, f"{name}:{row.line}") for row in rows]
        if not self.follow_links:
            root = DataRoot(self.data_root)
            for record in records:
                root.check(record["img_path"], record["where"])
        return records

    def _split(self, rows: list[MTFLRow]) -> list[MTFLRow]:
        if self.split is None:
            return rows
        if not isinstance(self.val_size, int) or not 0 < self.val_size < len(rows):
            raise ConfigError(
                f"val_size: expected 1..{len(rows) - 1} of the {len(rows)} rows in "
                f"{self.ann_file}, found {self.val_size!r}"
            )
        first: dict[str, int] = {}  # a picture listed twice belongs to one split
        lines = [first.setdefault(row.path, row.line) for row in rows]
        keys = [
            hashlib.sha256(f"{self.split_seed}:{row.path}:{line}".encode()).digest()
            for row, line in zip(rows, lines, strict=True)
        ]
        last = sorted(keys)[self.val_size - 1]
        validation = self.split == "val"
        return [row for row, key in zip(rows, keys, strict=True) if (key <= last) == validation]

    def _record(self, row: MTFLRow, where: str) -> dict:
        landmarks = np.array([row.xs, row.ys]).T + self._shift
        gt = {}
        for task in self.tasks:
            if task == "landmarks":
                gt[task] = landmarks
            elif task == "pose":
                gt[task] = row.pose - 1
            else:
                gt[task] = np.array([getattr(row, task) == 1], dtype=np.float32)
        path = os.path.join(self.data_root, row.path)
        return dict(img_path=path, gt=gt, landmarks=landmarks, where=where, row=row.line)
