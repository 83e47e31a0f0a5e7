"""CelebA: forty attributes, five landmarks and face boxes of 202,599 pictures."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trn_plugin.datasets._data_root import DataRoot
from trn_plugin.datasets._options import PIXEL_CENTRE, pixel_shift
from trn_plugin.datasets._pictures import report_missing
from trn_plugin.datasets._records import Records
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
from trn_plugin.datasets.transforms.face_box import FaceBox
from trn_plugin.errors import ConfigError, DataError, PictureError
from trn_plugin.geometry import read_image
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
    places below ``celeba`` or ``CelebA``. A ``.csv`` file may replace each ``.txt`` file, and the
    folder of pictures may lie in another of the same name.

    Tasks:

    - ``attributes``: all chosen attributes as one task;
    - ``group_a`` and ``group_b``: the paper's groups, the file's attributes 1 to 20 and 21 to 40;
    - the tasks of ``groups``;
    - each attribute by its name, such as ``Wearing_Hat`` (``_`` before a leading digit);
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
        chosen = ATTRIBUTES if attributes is None else attributes
        self.attributes = _checked_attributes("attributes", chosen)
        self.groups = {
            name: _checked_attributes(f"groups.{name}", members)
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

    def check_root(self) -> None:
        """See `MultiTaskDataset`."""
        if not os.path.isdir(self.data_root):
            raise DataError(
                f"data root '{self.data_root}' is no folder: set CELEBA_ROOT (or data_root in the "
                f"config) to the one that holds {ATTRIBUTE_FILE}; {SOURCE}"
            )

    def load_data_list(self) -> Records:
        """Read the label files; pictures are opened when they are used."""
        self.check_root()
        given = os.path.abspath(os.path.expanduser(self.partition))
        files = self._files = CelebAFiles(self.data_root)
        found = files.found(self.partition)
        self.ann_file = found or (given if os.path.isfile(given) else files.path(self.partition))
        rows = read_partition(self.ann_file)
        chosen = np.arange(len(rows.files))
        if self.split is not None:
            chosen = np.flatnonzero(rows.values[:, 0] == SPLITS.index(self.split))
            if not chosen.size:
                raise DataError(f"{self.ann_file}: no row of the split {self.split!r}")
        self._folder = files.pictures(self.images, needed=bool(self.pipeline.transforms))
        if self.pipeline.transforms:
            chosen = self._rows_with_picture(rows, chosen)
        self._rows = rows._replace(files=rows.files[chosen], lines=rows.lines[chosen])
        self._read_attributes()
        self._read_geometry()
        return Records(self._record, len(chosen))

    def labels_of(self, task: str, rows: np.ndarray | None = None) -> np.ndarray:
        """See `MultiTaskDataset`; read from the arrays at once."""
        self.full_init()
        if task not in self._labels:
            return super().labels_of(task, rows)
        own = self.data_list.rows
        return self._labels[task][own if rows is None else own[rows]]

    def _record(self, row: int) -> dict:
        known = {**self._labels, **self._geometry}
        dtypes = {task: np.float64 if task in GEOMETRY else np.float32 for task in self.tasks}
        landmarks = self._geometry.get("landmarks")
        return dict(
            img_path=self._path(str(self._rows.files[row])),
            gt={task: known[task][row].astype(dtype) for task, dtype in dtypes.items()},
            landmarks=None if landmarks is None else landmarks[row].astype(np.float64),
            where=f"{os.path.basename(self.ann_file)}:{self._rows.lines[row]}",
            row=int(self._rows.lines[row]),
        )

    def _read_attributes(self) -> None:
        path = self._files.path(ATTRIBUTE_FILE)
        table = read_attributes(path)
        known = self._metainfo["tasks"]
        rows = self._rows_of(table, path)
        self._labels = {}
        for task in filter(lambda task: task not in GEOMETRY, self.tasks):
            for name in known[task]["names"]:
                if name not in table.names:
                    raise DataError(
                        f"{path}:{table.header}: expected the attribute {name}, it is missing"
                    )
            columns = [table.names.index(name) for name in known[task]["names"]]
            self._labels[task] = table.values[np.ix_(rows, columns)]

    def _read_geometry(self) -> None:
        """Read points (N, P, 2) in pixels for the chosen tasks and for a face box."""
        self._geometry = {}
        wild = self.images.startswith("img_celeba")
        if "bbox" in self.tasks:
            if not wild:
                raise ConfigError(
                    "tasks: 'bbox' is in pixels of the pictures in the wild: set "
                    f"images='img_celeba'; found images={self.images!r}"
                )
            x, y, width, height = self._table(BOX_FILE, BOX_COLUMNS).T
            corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
            self._geometry["bbox"] = np.array(corners).transpose(2, 0, 1)
        name = "list_landmarks_celeba.txt" if wild else "list_landmarks_align_celeba.txt"
        steps = getattr(self.pipeline, "transforms", ())
        boxed = any(isinstance(step, FaceBox) and step.mode != "whole" for step in steps)
        if "landmarks" in self.tasks or (boxed and self._files.found(name)):
            points = self._table(name, POINT_COLUMNS).reshape(-1, len(POINTS), 2)
            points = points + self._shift
            self._geometry["landmarks"] = points if wild else points * self._aligned_scale()

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

    def _rows_with_picture(self, rows: Table, chosen: np.ndarray) -> np.ndarray:
        """The chosen rows whose picture exists."""
        present, root = set(), DataRoot(self._folder)
        for entry in os.scandir(self._folder):
            present.add(entry.name)
            if entry.is_symlink() and not self.follow_links:
                root.check(entry.path, self.ann_file)
        names = rows.files[chosen].tolist()
        exists = np.array([self._picture(name) in present for name in names], dtype=bool)
        missing = np.flatnonzero(~exists)
        if missing.size:
            where = f"{self.ann_file}:{rows.lines[chosen[missing[0]]]}"
            text = f"{where}: no picture {self._picture(names[missing[0]])} in {self._folder}"
            report_missing(text, len(missing), len(names), self.skip_unreadable)
        return chosen[exists]

    def _aligned_scale(self) -> np.ndarray:
        """(2,) size of the first readable picture relative to the official aligned size."""
        if not self.pipeline.transforms:
            return np.ones(2)
        for row, name in enumerate(self._rows.files):
            try:
                height, width = read_image(self._path(str(name))).shape[:2]
            except PictureError as error:
                if not self.skip_unreadable:
                    raise PictureError(
                        f"{self.ann_file}:{self._rows.lines[row]}: {error}"
                    ) from None
            else:
                return np.array([width, height]) / ALIGNED_SIZE
        return np.ones(2)

    def _picture(self, name: str) -> str:
        return os.path.splitext(name)[0] + ".png" if self.images.endswith("_png") else name

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, self._picture(name))


def _checked_attributes(key: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not names:
        raise ConfigError(f"{key}: expected a list of attributes' names, found {names!r}")
    for name in names:
        if name not in ATTRIBUTES:
            close = difflib.get_close_matches(str(name), ATTRIBUTES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; they are {list(ATTRIBUTES)}"
            raise ConfigError(f"{key}: CelebA has no attribute {name!r}{hint}")
    if len(set(names)) < len(names):
        raise ConfigError(f"{key}: an attribute is named twice in {list(names)}")
    return tuple(names)


def _task_name(attribute: str) -> str:
    return attribute if attribute.isidentifier() else f"_{attribute}"
