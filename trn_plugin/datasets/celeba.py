"""CelebA: forty attributes, five landmarks and face boxes of 202,599 pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trn_plugin.datasets._options import PIXEL_CENTRE, chosen_names, pixel_shift
from trn_plugin.datasets._pictures import rows_with_picture
from trn_plugin.datasets._records import LabelTable, Records
from trn_plugin.datasets.base import MultiTaskDataset
from trn_plugin.datasets.celeba_files import SOURCE, CelebAFiles
from trn_plugin.datasets.celeba_format import (
    ATTRIBUTES,
    SPLITS,
    Table,
    read_attributes,
    read_partition,
    read_table,
)
from trn_plugin.datasets.crops import picture_size
from trn_plugin.datasets.transforms.face_box import FaceBox
from trn_plugin.errors import ConfigError, DataError
from trn_plugin.registry import DATASETS

__all__ = ["CelebA"]

ATTRIBUTE_FILE = "list_attr_celeba.txt"
ALIGNED_SIZE = (178, 218)  # width and height
BOX_FILE = "list_bbox_celeba.txt"
POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
POINT_COLUMNS = tuple(f"{name.replace('_', '')}_{axis}" for name in POINTS for axis in "xy")
BOX_COLUMNS = ("x_1", "y_1", "width", "height")
GROUPS = {"group_a": ATTRIBUTES[:20], "group_b": ATTRIBUTES[20:]}
GEOMETRY = {
    "landmarks": dict(kind="landmarks", names=POINTS, flip=(1, 0, 2, 4, 3), interocular=(0, 1)),
    "bbox": dict(
        kind="landmarks",
        names=("top_left", "top_right", "bottom_right", "bottom_left"),
        flip=(1, 0, 3, 2),
        interocular=(0, 1),
    ),
}


@DATASETS.register_module()
class CelebA(MultiTaskDataset):
    """CelebFaces Attributes (Liu et al., ICCV 2015), read as distributed.

    Files are found in ``data_root``, in its folders ``Anno``, ``Eval`` and ``Img``, and in the same
    places below ``celeba`` or ``CelebA``. A ``.csv`` file may replace each ``.txt`` file. The
    folder of pictures may be nested in another of the same name.

    Tasks:

    - ``attributes``: all chosen attributes as one task;
    - ``group_a`` and ``group_b``: the paper's groups, the file's attributes 1 to 20 and 21 to 40;
    - the tasks of ``groups``;
    - each attribute by its name, such as ``Wearing_Hat`` (a leading digit gets a ``_``);
    - ``landmarks``: eyes, nose, mouth corners; "left" is the picture's left;
    - ``bbox``: the four corners of the box, for pictures in the wild only.

    Args:
        data_root: folder of the label files and pictures.
        partition: partition file, by name in ``data_root`` or by path; it lists the pictures.
        split: 'train', 'val' or 'test' of the partition; None for all its rows.
        tasks: names of the tasks; None makes each of ``attributes`` its own task.
        attributes: names of the attributes in the task ``attributes``; None for all forty.
        groups: further tasks: task name -> names of its attributes.
        images: folder of the pictures. A name that begins with ``img_celeba`` selects the landmarks
            in the wild instead of the aligned ones; one that ends in ``_png`` holds PNG files.
        pixel_centre: coordinate of the centre of the first pixel in the landmark file, or (x, y);
            CelebA does not document it. Box corners lie on pixel edges and are not shifted.
        **kwargs: of `MultiTaskDataset`, such as ``pipeline``, ``input_size`` and ``indices``.

    Raises:
        ConfigError: for an unknown task, attribute or split.
        DataError: if the root, a file or a picture is missing, or a file cannot be used (naming
            file and line). Pictures are checked only if there is a pipeline to read them.
    """

    root_hint = f"set CELEBA_ROOT, or data_root in the config; {SOURCE}"
    METAINFO = dict(dataset="CelebA", tasks={})

    def __init__(
        self,
        data_root: str,
        partition: str = "list_eval_partition.txt",
        split: str | None = None,
        tasks: Sequence[str] | None = ("attributes",),
        attributes: Sequence[str] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        images: str = "img_align_celeba",
        pixel_centre: float | Sequence[float] = PIXEL_CENTRE,
        **kwargs: Any,
    ) -> None:
        if split not in (None, *SPLITS):
            raise ConfigError(f"split: expected None or one of {list(SPLITS)}, found {split!r}")
        self.split = split
        self.partition = partition
        self.images = images
        self._shift = pixel_shift(pixel_centre)
        if "ann_file" in kwargs:
            raise ConfigError("ann_file: CelebA has several label files; set partition")
        self.attributes = chosen_names("attributes", attributes, ATTRIBUTES)
        self.groups = {
            name: chosen_names(f"groups.{name}", members, ATTRIBUTES)
            for name, members in {**GROUPS, **(groups or {})}.items()
        }
        if tasks is None:
            tasks = [_task_name(name) for name in self.attributes]
        super().__init__(data_root=os.path.expanduser(data_root), tasks=tasks, **kwargs)

    def _known_tasks(self) -> dict[str, dict]:
        """See `MultiTaskDataset`."""
        members = {
            **{_task_name(name): (name,) for name in ATTRIBUTES},
            "attributes": self.attributes,
            **self.groups,
        }
        tasks = {task: dict(kind="attributes", names=names) for task, names in members.items()}
        singles = {"attributes", *map(_task_name, ATTRIBUTES)}
        for task in self.groups:
            if task in GEOMETRY or task in singles:
                raise ConfigError(f"groups.{task}: this name is taken")
        return {**tasks, **GEOMETRY}

    def load_data_list(self) -> Records:
        """Read the label files; pictures are opened when they are used."""
        self.check_root()
        given = os.path.abspath(os.path.expanduser(self.partition))
        files = self._files = CelebAFiles(self.data_root)
        found = files.found(self.partition)
        self.ann_file = found or (given if os.path.isfile(given) else files.path(self.partition))
        rows = read_partition(self.ann_file)
        if self.split is not None:
            rows = rows.take(np.flatnonzero(rows.values[:, 0] == SPLITS.index(self.split)))
            if not rows.files.size:
                raise DataError(f"{self.ann_file}: no row of the split {self.split!r}")
        self._rows = rows
        self._folder = files.pictures(self.images, needed=bool(self.pipeline.transforms))
        if self.pipeline.transforms:
            names = map(self._picture, self._rows.files.tolist())
            root, skip = None if self.follow_links else self._folder, self.skip_unreadable
            present = rows_with_picture(self._folder, names, self._where, root, skip)
            self._rows = self._rows.take(present)
        self._labels = {**self._read_attributes(), **self._read_geometry()}
        labelled = np.ones(len(self._rows.files), dtype=bool)
        tables = {task: LabelTable(self._labels[task], labelled) for task in self.tasks}
        return Records(self._record, len(labelled), tables)

    def _record(self, row: int) -> dict:
        landmarks = self._labels.get("landmarks")
        return dict(
            img_path=os.path.join(self._folder, self._picture(str(self._rows.files[row]))),
            gt={task: self._labels[task][row].copy() for task in self.tasks},
            landmarks=None if landmarks is None else landmarks[row].copy(),
            where=self._where(row),
            row=int(self._rows.lines[row]),
        )

    def _where(self, row: int) -> str:
        return f"{os.path.basename(self.ann_file)}:{self._rows.lines[row]}"

    def _read_attributes(self) -> dict[str, np.ndarray]:
        """Labels (N, A) of each chosen attribute task."""
        path = self._files.path(ATTRIBUTE_FILE)
        table = read_attributes(path)
        known = self._metainfo["tasks"]
        rows = self._rows_of(table, path)
        labels = {}
        for task in filter(lambda task: task not in GEOMETRY, self.tasks):
            for name in known[task]["names"]:
                if name not in table.names:
                    raise DataError(
                        f"{path}:{table.header}: expected the attribute {name}, found none"
                    )
            columns = [table.names.index(name) for name in known[task]["names"]]
            labels[task] = table.values[np.ix_(rows, columns)].astype(np.float32)
        return labels

    def _read_geometry(self) -> dict[str, np.ndarray]:
        """Points (N, P, 2) in pixels of the chosen tasks; landmarks also for a face box."""
        labels = {}
        wild = self.images.startswith("img_celeba")
        if "bbox" in self.tasks:
            if not wild:
                raise ConfigError(
                    "tasks: 'bbox' is in pixels of the pictures in the wild: set "
                    f"images='img_celeba'; found images={self.images!r}"
                )
            x, y, width, height = self._table(BOX_FILE, BOX_COLUMNS).T
            corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
            labels["bbox"] = np.array(corners, dtype=np.float64).transpose(2, 0, 1)
        name = "list_landmarks_celeba.txt" if wild else "list_landmarks_align_celeba.txt"
        steps = getattr(self.pipeline, "transforms", ())
        boxed = any(isinstance(step, FaceBox) and step.mode != "whole" for step in steps)
        if "landmarks" in self.tasks or (boxed and self._files.found(name)):
            points = self._table(name, POINT_COLUMNS).reshape(-1, len(POINTS), 2)
            points = points + self._shift
            labels["landmarks"] = points if wild else points * self._aligned_scale()
        return labels

    def _table(self, name: str, columns: Sequence[str]) -> np.ndarray:
        path = self._files.path(name)
        table = read_table(path, columns)
        return table.values[self._rows_of(table, path)]

    def _rows_of(self, table: Table, path: str) -> np.ndarray:
        """Indices of the chosen pictures in a label file."""
        order = np.argsort(table.files)
        place = np.searchsorted(table.files, self._rows.files, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)]
        absent = np.flatnonzero(table.files[rows] != self._rows.files)
        if absent.size:
            raise DataError(
                f"{self.ann_file}:{self._rows.lines[absent[0]]}: {self._rows.files[absent[0]]} has "
                f"no row in {path}"
            )
        return rows

    def _aligned_scale(self) -> np.ndarray:
        """(2,) first picture's width and height relative to the official aligned size."""
        if not self.pipeline.transforms or not self._rows.files.size:
            return np.ones(2)
        first = os.path.join(self._folder, self._picture(str(self._rows.files[0])))
        return np.array(picture_size(first)) / ALIGNED_SIZE

    def _picture(self, name: str) -> str:
        return os.path.splitext(name)[0] + ".png" if self.images.endswith("_png") else name


def _task_name(attribute: str) -> str:
    return attribute if attribute.isidentifier() else f"_{attribute}"
