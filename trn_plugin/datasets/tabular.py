"""Pictures of anybody's, with the labels in a CSV file."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from trn_plugin.datasets._inside import Inside
from trn_plugin.datasets.base import MultiTaskDataset
from trn_plugin.datasets.label_csv import csv_rows
from trn_plugin.datasets.tabular_format import absent_column, box_rule, label_columns
from trn_plugin.datasets.transforms import RegionBox
from trn_plugin.errors import ConfigError, DataError, PictureError
from trn_plugin.registry import DATASETS
from trn_plugin.tasks import LabelColumns, read_tasks
from trn_plugin.tasks.cells import coordinate, is_missing, quoted, relative_path

__all__ = ["SPLITS", "TabularMultiTask"]

SPLITS = ("train", "val", "test")
NO_BOX = dict(columns="no box in its columns", landmarks="no two landmarks for a box")


@DATASETS.register_module()
class TabularMultiTask(MultiTaskDataset):
    """Labels in a CSV file with a header, one row a sample; a config says what its columns are.

    ``labels`` has for each task its kind and columns, ``dict(pose=dict(kind='class', ...))``:

    - ``landmarks``: ``points``, names of points, whose columns are ``<name>_x`` and ``<name>_y``;
      or the two columns by name, ``dict(nose=('nx', 'ny'))``. Pixels of the picture; see below
      for points that are missing.
      ``flip_pairs``, pairs of points that change places in a mirror (``[]`` if none do; needed for
      `RandomFlip`); ``interocular``, the two points whose distance the NME is relative to.
    - ``class``: ``column`` (default: the task's name); ``classes``, what its cells hold, names or
      whole numbers, in order, or the name by cell, ``{1: 'left', 2: 'right'}``; ``flip_pairs`` as
      above.
    - ``attributes``: ``columns`` of 0 and 1 (default: the task's name).
    - ``values``: ``columns`` of numbers (default: the task's name).

    An empty cell is a missing label. Of landmarks single points may be missing: an empty cell, or
    0 in a third column, ``dict(nose=('nx', 'ny', 'visible'))`` (1 and 2: the point is there). Such
    a point is in no loss and no metric. A task of another kind of which a row has some cells but
    not all is missing there too, and the log counts such rows: columns that are filled
    independently belong in tasks of their own.

    Args:
        data_root: folder that holds the pictures; no path in the file may lead out of it.
        ann_file: the CSV file, in ``data_root`` unless it is absolute.
        labels: see above.
        image_column: name of the column of the pictures' paths.
        image_folder: the paths begin there, in ``data_root``.
        box: the part of the picture that a row is about, for `RegionBox`: 'whole', all of it;
            'landmarks', a box around the points that are there; or the names of four columns,
            x0, y0, x1, y1 in pixels. None: 'landmarks' if the labels have two points or more,
            else 'whole'. A row that has no such box is refused.
        split: 'train', 'val' or 'test'; None for all rows.
        split_column: name of the column that holds those three words; None draws a picture's split
            by a hash of ``split_seed`` and its path, which depends on nothing else.
        val_share: share of the pictures that are drawn for 'val'.
        test_share: share of the pictures that are drawn for 'test'.
        split_seed: see ``split_column``.
        **kwargs: of `MultiTaskDataset`, such as ``tasks``, ``pipeline`` and ``input_size``.

    Raises:
        ConfigError: for labels that are not as above, an unknown split or unusable shares.
        DataError: if the root, the file, a column or a picture is missing, or a cell cannot be
            used (naming file, line and column). Pictures are looked for when there is a pipeline
            to read them.
    """

    METAINFO = dict(dataset="TabularMultiTask", tasks={})

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        labels: Mapping[str, Mapping],
        image_column: str = "image",
        image_folder: str = "",
        box: str | Sequence[str] | None = None,
        split: str | None = None,
        split_column: str | None = None,
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        given = dict(data_root=data_root, ann_file=ann_file, image_column=image_column)
        given |= dict(image_folder=image_folder)
        given |= {} if split_column is None else dict(split_column=split_column)
        for name, value in given.items():
            if not isinstance(value, str):
                raise ConfigError(f"{name}: expected a text, found {value!r}")
        if not isinstance(split, (str, type(None))) or split not in (None, *SPLITS):
            raise ConfigError(f"split: expected None or one of {list(SPLITS)}, found {split!r}")
        for name, share in (("val_share", val_share), ("test_share", test_share)):
            if not isinstance(share, (int, float)) or not 0 <= share < 1:
                raise ConfigError(f"{name}: expected a share from 0 to below 1, found {share!r}")
        if val_share + test_share >= 1:
            raise ConfigError(
                f"val_share, test_share: nothing is left to train on, {val_share} + {test_share}"
            )
        self.labels = label_columns(labels)
        self._readers = read_tasks(self._known_tasks(), "labels.")
        self.box_rule, self.box_columns = box_rule(box, self._readers)
        self.image_column = image_column
        self.image_folder = relative_path(image_folder, "image_folder")
        self.split = split
        self.split_column = split_column
        self.shares = {"val": val_share, "test": test_share}
        self.split_seed = split_seed
        super().__init__(data_root=os.path.expanduser(data_root), ann_file=ann_file, **kwargs)
        self._metainfo["dataset"] = os.path.basename(ann_file)

    def _known_tasks(self) -> dict[str, dict]:
        return {task: columns.info for task, columns in self.labels.items()}

    def check_root(self) -> None:
        """See `MultiTaskDataset`."""
        if not os.path.isdir(self.data_root):
            raise DataError(
                f"data root '{self.data_root}' is no folder: set data_root to the one that holds "
                "the pictures"
            )
        if not os.path.isfile(self.ann_file):
            raise DataError(
                f"ann_file '{self.ann_file}' is missing: expected a CSV file there (a relative "
                "name is looked for in data_root)"
            )

    def load_data_list(self) -> list[dict]:
        """Read the file; pictures are first opened when they are used."""
        self.check_root()
        rows = csv_rows(self.ann_file)
        _, header = next(rows)
        places = self._places(header)
        self._partial: Counter[str] = Counter()
        self._split_of_picture: dict[str, str] = {}
        self._in_two_splits: dict[str, str] = {}
        records = []
        for line, cells in rows:
            where = f"{os.path.basename(self.ann_file)}:{line}"
            record = self._record({c: cells[place] for c, place in places.items()}, where)
            if record is not None:
                records.append(dict(record, where=where, row=line))
        if not records:
            which = "rows below its header" if self.split is None else f"row of {self.split!r}"
            raise DataError(f"{self.ann_file}: has no {which}")
        self._report(records)
        self._check_boxes(records)
        return self._there(records)

    def _places(self, header: Sequence[str]) -> dict[str, int]:
        """Where in a row each column stands that is read."""
        needed = [self.image_column, *self.box_columns]
        if self.split_column is not None and self.split is not None:
            needed.append(self.split_column)
        needed += [column for columns in self.labels.values() for column in columns.columns]
        for name in needed:
            if name not in header:
                text = f"{self.ann_file}:1: {absent_column(name, header)}"
                if name == self.split_column:
                    text += "; split_column=None draws the split, split=None takes all rows"
                raise DataError(text)
        return {name: header.index(name) for name in needed}

    def _record(self, cells: dict[str, str], where: str) -> dict | None:
        """The record of a row; None if it is of another split."""
        path = relative_path(cells[self.image_column], where)
        if not path:
            raise DataError(f"{where}: expected {self.image_column} to be a path, found ''")
        if self.split not in (None, self._split_of(path, cells, where)):
            return None
        labels = {}
        for task, columns in self.labels.items():
            label = self._label(task, columns, cells, where)
            if label is not None:
                labels[task] = label
        found = (self._readers[task].points(label) for task, label in labels.items())
        points = [each for each in found if len(each)]
        return dict(
            img_path=os.path.normpath(os.path.join(self.data_root, self.image_folder, path)),
            gt={task: labels[task] for task in self.tasks if task in labels},
            landmarks=np.concatenate(points) if points else None,
            region=self._region(cells, where),
        )

    def _split_of(self, path: str, cells: dict[str, str], where: str) -> str | None:
        if self.split is None:
            return None
        if self.split_column is not None:
            found = cells[self.split_column]
            if found not in SPLITS:
                raise DataError(
                    f"{where}: expected {self.split_column} to be one of {', '.join(SPLITS)}, "
                    f"found {quoted(found)}"
                )
            if self._split_of_picture.setdefault(path, found) != found:
                self._in_two_splits.setdefault(path, where)
            return found
        digest = hashlib.sha256(f"{self.split_seed}:{path}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        if place < self.shares["val"]:
            return "val"
        return "test" if place < self.shares["val"] + self.shares["test"] else "train"

    def _label(
        self, task: str, columns: LabelColumns, cells: dict[str, str], where: str
    ) -> np.ndarray | int | None:
        own = [cells[column] for column in columns.columns]
        missing = np.array([is_missing(cell) for cell in own])
        if not columns.labelled(missing[None])[0]:
            self._partial[task] += not missing.all()
            return None
        label = columns.read(own, where)
        return None if np.isnan(label).all() else label

    def _region(self, cells: dict[str, str], where: str) -> tuple[float, ...] | None:
        own = [cells[column] for column in self.box_columns]
        if all(is_missing(cell) for cell in own):
            return None
        x0, y0, x1, y1 = (
            coordinate(cell, f"{column} in pixels", where)
            for cell, column in zip(own, self.box_columns, strict=True)
        )
        if x1 <= x0 or y1 <= y0:
            raise DataError(
                f"{where}: expected {' < '.join(self.box_columns[::2])} and "
                f"{' < '.join(self.box_columns[1::2])}, found the box {', '.join(own)}"
            )
        return x0, y0, x1, y1

    def _report(self, records: list[dict]) -> None:
        """Say what a user would want to know of labels that are missing."""
        name = os.path.basename(self.ann_file)
        for path, where in list(self._in_two_splits.items())[:1]:
            self._warn(
                f"{where}: {quoted(path)} is in another split before, and so are "
                f"{len(self._in_two_splits) - 1} other pictures: what is measured on pictures "
                "that were trained on says little of others"
            )
        for task in self.tasks:
            if self._partial[task]:
                self._warn(
                    f"{name}: {self._partial[task]} rows have some of {task}'s columns but not "
                    "all: they count as rows without it; give columns that are filled "
                    "independently tasks of their own"
                )
            lacking = sum(bool(np.isnan(record["gt"].get(task, 0)).any()) for record in records)
            if lacking:
                what = f"{lacking} rows lack some of the points of {task}"
                self._warn(f"{name}: {what}: those are in no loss and no metric")
            if not any(task in record["gt"] for record in records):
                split = "" if self.split is None else f" of the split {self.split!r}"
                self._warn(f"{name}: no row{split} has a label of {task}")

    def _check_boxes(self, records: list[dict]) -> None:
        """Refuse rows that have no box of the kind that all are to have."""
        if not any(isinstance(step, RegionBox) for step in self.pipeline.transforms):
            return
        boxless = [record for record in records if not self._has_box(record)]
        if boxless:
            raise DataError(
                f"{boxless[0]['where']}: {NO_BOX[self.box_rule]}, as in {len(boxless)} of "
                f"{len(records)} rows; set box to 'whole', or to four columns that all rows fill"
            )

    def _has_box(self, record: dict) -> bool:
        if self.box_rule == "landmarks":
            points = record["landmarks"]
            return points is not None and bool((np.ptp(points, axis=0) > 0).any())
        return self.box_rule == "whole" or record["region"] is not None

    def _there(self, records: list[dict]) -> list[dict]:
        """The records whose picture exists; all of them if no pipeline would read it."""
        if not self.pipeline.transforms:
            return records
        inside = Inside(self.data_root)
        if not self.follow_links:
            for record in records:
                inside.check(record["img_path"], record["where"])
        missing = [r for r in records if not os.path.isfile(r["img_path"])]
        if not missing:
            return records
        text = (
            f"{missing[0]['where']}: no picture {missing[0]['img_path']}; {len(missing)} of "
            f"{len(records)} pictures are missing"
        )
        if not self.skip_unreadable:
            raise PictureError(text)
        self._warn(f"{text}: left out (skip_unreadable)")
        return [record for record in records if os.path.isfile(record["img_path"])]

    @staticmethod
    def _warn(text: str) -> None:
        print_log(text, "current", logging.WARNING)
