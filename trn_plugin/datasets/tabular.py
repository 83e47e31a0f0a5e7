"""Pictures with labels in a user's CSV file."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from trn_plugin.datasets._options import PIXEL_CENTRE, pixel_shift, suggestion
from trn_plugin.datasets._pictures import rows_with_picture
from trn_plugin.datasets._records import Records
from trn_plugin.datasets.base import MultiTaskDataset
from trn_plugin.datasets.label_csv import csv_batches, csv_header
from trn_plugin.datasets.tabular_format import (
    NO_BOX,
    box_rule,
    has_box,
    label_columns,
)
from trn_plugin.datasets.tabular_reader import SPLITS, LabelReader
from trn_plugin.datasets.transforms import RegionBox
from trn_plugin.errors import ConfigError, DataError
from trn_plugin.registry import DATASETS
from trn_plugin.tasks import read_tasks
from trn_plugin.tasks.cells import quoted, relative_path

__all__ = ["TabularMultiTask"]


@DATASETS.register_module()
class TabularMultiTask(MultiTaskDataset):
    """Labels in a CSV file with a header, one row per sample; the config describes its columns.

    ``labels`` gives the kind and columns of each task, ``dict(pose=dict(kind='class', ...))``:

    - ``landmarks``: ``points``, names of points with columns ``<name>_x`` and ``<name>_y`` in
      pixels, or the columns by point, ``dict(nose=('nx', 'ny'))``. ``flip_pairs``, pairs of points
      that a mirror swaps (``[]`` for none; needed for `RandomFlip`). ``interocular``, the two
      points whose distance normalises the NME.
    - ``class``: ``column`` (default: the task's name). ``classes``, the values of its cells in
      order (names or integers), or names by value, ``{1: 'left', 2: 'right'}``. ``flip_pairs`` as
      above.
    - ``attributes``: ``columns`` of 0 and 1 (default: the task's name).
    - ``values``: ``columns`` of numbers (default: the task's name).

    An empty cell is a missing label. Single points may be missing: an empty cell, or 0 in a third
    column, ``dict(nose=('nx', 'ny', 'visible'))`` (1 and 2: the point is labelled). No loss and no
    metric counts a missing point. For the other kinds, a row with only some of a task's cells has
    no label of the task, and the log counts such rows. Give columns that are filled independently
    a task each.

    Args:
        data_root: folder of the pictures; no path in the file may leave it.
        ann_file: the CSV file; a relative name is in ``data_root``.
        labels: see above.
        image_column: name of the column of picture paths.
        image_folder: folder in ``data_root`` that the paths start from.
        box: region of the picture for `RegionBox`: 'whole'; 'landmarks', a box around the labelled
            points; or the names of four columns, x0, y0, x1, y1 in pixels. None: 'landmarks' if the
            labels have two points or more, else 'whole'. A row without such a box is an error.
        pixel_centre: coordinate of the centre of the first pixel in the file's points, or (x, y):
            0.5 if the picture's edge is 0, as in crops and predictions; 0 or 1 if integers are
            pixel centres. Edges of boxes are not shifted.
        split: 'train', 'val' or 'test'; None for all rows.
        split_column: name of the column that holds those three words; None splits the pictures at
            random, by a hash of ``split_seed`` and path alone.
        val_share: share of the pictures in a random 'val'.
        test_share: share of the pictures in a random 'test'.
        split_seed: seed of the random split.
        **kwargs: of `MultiTaskDataset`, such as ``tasks``, ``pipeline`` and ``input_size``.

    Raises:
        ConfigError: unusable labels, an unknown split, unusable shares, or a box that no step of
            the pipeline reads.
        DataError: the root, the file, a column or a picture is missing, or a cell cannot be used
            (naming file, line and column). Pictures are checked only if there is a pipeline to
            read them.
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
        if split not in (None, *SPLITS):
            raise ConfigError(f"split: expected None or one of {list(SPLITS)}, found {split!r}")
        for name, share in (("val_share", val_share), ("test_share", test_share)):
            if not 0 <= share < 1:
                raise ConfigError(f"{name}: expected a share from 0 to below 1, found {share!r}")
        if val_share + test_share >= 1:
            raise ConfigError(
                f"val_share, test_share: expected a sum below 1, found {val_share} + {test_share}"
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

    def load_data_list(self) -> Records:
        """Read the file; pictures are opened when they are used."""
        self.check_root()
        header = csv_header(self.ann_file)
        names = self._columns(header)
        reader = LabelReader(self)
        for batch in csv_batches(self.ann_file, header, names):
            reader.read(batch)
        self._table = reader.table()
        if not self._table.lines.size:
            which = "rows below its header" if self.split is None else f"row of {self.split!r}"
            raise DataError(f"{self.ann_file}: has no {which}")
        self._report(reader)
        self._check_boxes()
        # tables hold points as in the file, records hold them shifted
        as_stored = [t for t in self.tasks if not (self._shift.any() and self.known[t].has_points)]
        labels = {task: self._table.labels[task] for task in as_stored}
        return Records(self._record, self._rows_with_picture(), labels)

    def _columns(self, header: Sequence[str]) -> list[str]:
        """Names of the columns to read."""
        needed = [self.image_column, *self.box_columns]
        if self.split_column is not None and self.split is not None:
            needed.append(self.split_column)
        needed += [column for columns in self.labels.values() for column in columns.columns]
        for name in needed:
            if name not in header:
                text = (
                    f"{self.ann_file}:1: has no column {quoted(name)}; {suggestion(name, header)}"
                )
                if name == self.split_column:
                    text += "; split_column=None splits at random, split=None takes all rows"
                raise DataError(text)
        return list(dict.fromkeys(needed))

    def _record(self, row: int) -> dict:
        table = self._table
        found = {task: labels.label(row) for task, labels in table.labels.items()}
        found = {
            task: self.known[task].mapped(label, lambda points: points + self._shift)
            for task, label in found.items()
            if label is not None
        }
        points = [self.known[task].points(label) for task, label in found.items()]
        points = [each for each in points if len(each)]
        region = None if table.regions is None else table.regions[row]
        folder = os.path.join(self.data_root, self.image_folder)
        return dict(
            img_path=os.path.normpath(os.path.join(folder, table.paths[row].as_py())),
            gt={task: found[task] for task in self.tasks if task in found},
            landmarks=np.concatenate(points) if points else None,
            region=None if region is None or np.isnan(region[0]) else tuple(region.tolist()),
            where=self._where(row),
            row=int(table.lines[row]),
        )

    def _where(self, row: int) -> str:
        return f"{os.path.basename(self.ann_file)}:{self._table.lines[row]}"

    def _report(self, reader: LabelReader) -> None:
        """Warn of pictures in two splits and of missing labels."""
        name = os.path.basename(self.ann_file)
        warn = functools.partial(print_log, logger="current", level=logging.WARNING)
        repeated = reader.in_two_splits()
        if repeated is not None:
            line, path, count = repeated
            warn(
                f"{name}:{line}: {quoted(path)} is also in another split ({count} such pictures): "
                "metrics on training pictures say little about new ones"
            )
        for task in self.tasks:
            if reader.partial[task]:
                warn(
                    f"{name}: {reader.partial[task]} rows have some of {task}'s columns but not "
                    "all: they count as unlabelled; give columns that are filled independently a "
                    "task each"
                )
            table = self._table.labels[task]
            labels = table.labels[table.labelled]
            partial = np.isnan(labels).any(axis=tuple(range(1, labels.ndim))).sum()
            if partial:
                what = f"{partial} rows lack some of the points of {task}"
                warn(f"{name}: {what}: these points are in no loss and no metric")
            if not table.labelled.any():
                split = "" if self.split is None else f" of the split {self.split!r}"
                warn(f"{name}: no row{split} has a label of {task}")

    def _check_boxes(self) -> None:
        """Refuse rows without a box, and a ``box`` that no step reads."""
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
                "rows fill in"
            )

    def _rows_with_picture(self) -> np.ndarray:
        """The rows whose picture exists; all rows without a pipeline."""
        if not self.pipeline.transforms:
            return np.arange(len(self._table.lines))
        folder = os.path.join(self.data_root, self.image_folder)
        root = None if self.follow_links else self.data_root
        paths = (path.as_py() for path in self._table.paths)
        return rows_with_picture(folder, paths, self._where, root, self.skip_unreadable)
