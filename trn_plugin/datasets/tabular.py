"""Pictures of anybody's, with the labels in a CSV file."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from trn_plugin.datasets._boxes import NO_BOX, has_box
from trn_plugin.datasets._inside import Inside
from trn_plugin.datasets._options import PIXEL_CENTRE, pixel_shift
from trn_plugin.datasets._pictures import existing
from trn_plugin.datasets._records import Records
from trn_plugin.datasets.base import MultiTaskDataset
from trn_plugin.datasets.label_csv import csv_batches, csv_header
from trn_plugin.datasets.tabular_format import absent_column, box_rule, label_columns
from trn_plugin.datasets.tabular_reader import SPLITS, LabelReader
from trn_plugin.datasets.transforms import RegionBox
from trn_plugin.errors import ConfigError, DataError, PictureError
from trn_plugin.registry import DATASETS
from trn_plugin.tasks import read_tasks
from trn_plugin.tasks.cells import quoted, relative_path

__all__ = ["SPLITS", "TabularMultiTask"]


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
        pixel_centre: coordinate of the middle of the picture's first pixel in the file's points,
            or (x, y): 0.5 where the picture's edge is 0, as in crops and predictions; 0 or 1 where
            whole numbers are middles of pixels. Edges of boxes stay.
        split: 'train', 'val' or 'test'; None for all rows.
        split_column: name of the column that holds those three words; None draws a picture's split
            by a hash of ``split_seed`` and its path, which depends on nothing else.
        val_share: share of the pictures that are drawn for 'val'.
        test_share: share of the pictures that are drawn for 'test'.
        split_seed: see ``split_column``.
        **kwargs: of `MultiTaskDataset`, such as ``tasks``, ``pipeline`` and ``input_size``.

    Raises:
        ConfigError: for labels that are not as above, an unknown split, unusable shares, or a box
            that no step of the pipeline reads.
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
        pixel_centre: float | Sequence[float] = PIXEL_CENTRE,
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
        self.known = read_tasks(self._known_tasks(), "labels.")
        self.box = box
        self.box_rule, self.box_columns = box_rule(box, self.known)
        self._shift = pixel_shift(pixel_centre)
        self.image_column = image_column
        self.image_folder = relative_path(image_folder, "image_folder")
        self.split = split
        self.split_column = split_column
        self.shares = {"val": val_share, "test": test_share}
        self.split_seed = split_seed
        super().__init__(data_root=os.path.expanduser(data_root), ann_file=ann_file, **kwargs)
        if "dataset" not in (kwargs.get("metainfo") or {}):
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

    def load_data_list(self) -> Records:
        """Read the file; pictures are first opened when they are used."""
        self.check_root()
        header = csv_header(self.ann_file)
        names = self._columns(header)
        reader = LabelReader(
            self.ann_file,
            self.labels,
            self.image_column,
            self.box_columns,
            self.split,
            self.split_column,
            self.shares,
            self.split_seed,
        )
        for batch in csv_batches(self.ann_file, header, names):
            reader.read(batch)
        self._table = reader.table().shifted(self.known, self._shift)
        if not self._table.lines.size:
            which = "rows below its header" if self.split is None else f"row of {self.split!r}"
            raise DataError(f"{self.ann_file}: has no {which}")
        self._report(reader)
        self._check_boxes()
        labels = {task: self._table.labels[task] for task in self.tasks}
        return Records(self._record, self._there(), labels)

    def _columns(self, header: Sequence[str]) -> list[str]:
        """Names of the columns that are read."""
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
        return list(dict.fromkeys(needed))

    def _record(self, row: int) -> dict:
        table = self._table
        found = {task: labels.label(row) for task, labels in table.labels.items()}
        found = {task: label for task, label in found.items() if label is not None}
        points = [self.known[task].points(label) for task, label in found.items()]
        points = [each for each in points if len(each)]
        region = None if table.regions is None else table.regions[row]
        folder = os.path.join(self.data_root, self.image_folder)
        return dict(
            img_path=os.path.normpath(os.path.join(folder, table.paths.text(row))),
            gt={task: found[task] for task in self.tasks if task in found},
            landmarks=np.concatenate(points) if points else None,
            region=None if region is None or np.isnan(region[0]) else tuple(region.tolist()),
            where=self._where(row),
            row=int(table.lines[row]),
        )

    def _where(self, row: int) -> str:
        return f"{os.path.basename(self.ann_file)}:{self._table.lines[row]}"

    def _report(self, reader: LabelReader) -> None:
        """Say what a user would want to know of labels that are missing."""
        name = os.path.basename(self.ann_file)
        line, path, count = reader.in_two_splits()
        if count:
            self._warn(
                f"{name}:{line}: {quoted(path)} is in another split before, and so are "
                f"{count - 1} other pictures: what is measured on pictures "
                "that were trained on says little of others"
            )
        for task in self.tasks:
            if reader.partial[task]:
                self._warn(
                    f"{name}: {reader.partial[task]} rows have some of {task}'s columns but not "
                    "all: they count as rows without it; give columns that are filled "
                    "independently tasks of their own"
                )
            table = self._table.labels[task]
            there = table.labels[table.there]
            lacking = np.isnan(there.reshape(len(there), -1)).any(axis=1).sum() if len(there) else 0
            if lacking:
                what = f"{lacking} rows lack some of the points of {task}"
                self._warn(f"{name}: {what}: those are in no loss and no metric")
            if not table.there.any():
                split = "" if self.split is None else f" of the split {self.split!r}"
                self._warn(f"{name}: no row{split} has a label of {task}")

    def _check_boxes(self) -> None:
        """Refuse rows that have no box of the kind that all are to have, and a box not read."""
        steps = self.pipeline.transforms
        if not any(isinstance(step, RegionBox) for step in steps):
            if steps and self.box is not None:
                raise ConfigError(
                    f"box: expected a pipeline with RegionBox, which reads {self.box!r}, found "
                    f"{', '.join(type(step).__name__ for step in steps)}"
                )
            return
        boxless = np.flatnonzero(~has_box(self.box_rule, self.known, self._table))
        if boxless.size:
            raise DataError(
                f"{self._where(boxless[0])}: {NO_BOX[self.box_rule]}, as in {boxless.size} of "
                f"{len(self._table.lines)} rows; set box to 'whole', or to four columns that all "
                "rows fill"
            )

    def _there(self) -> np.ndarray:
        """The rows whose picture exists; all of them if no pipeline would read it."""
        table = self._table
        rows = np.arange(len(table.lines))
        if not self.pipeline.transforms:
            return rows
        folder = os.path.join(self.data_root, self.image_folder)
        inside = None if self.follow_links else Inside(self.data_root)
        paths = map(table.paths.text, range(len(rows)))
        there = existing(folder, paths, self._where, inside)
        if there.all():
            return rows
        missing = np.flatnonzero(~there)
        text = (
            f"{self._where(missing[0])}: no picture {self._record(missing[0])['img_path']}; "
            f"{len(missing)} of {len(rows)} pictures are missing"
        )
        if not self.skip_unreadable:
            raise PictureError(text)
        self._warn(f"{text}: left out (skip_unreadable)")
        return rows[there]

    @staticmethod
    def _warn(text: str) -> None:
        print_log(text, "current", logging.WARNING)
