"""Base class of this package's data sets."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from trn_plugin.datasets._options import (
    check_mmcv_transforms,
    chosen_names,
    excluded_augmentations,
    input_shape,
)
from trn_plugin.datasets._records import Records
from trn_plugin.datasets.draws import SampleGenerator, draw_of
from trn_plugin.datasets.wrapped import category_ids
from trn_plugin.errors import ConfigError, DataError, PictureError, TrnPluginError
from trn_plugin.tasks import read_tasks

__all__ = ["MultiTaskDataset"]


class MultiTaskDataset(BaseDataset):
    """Pictures with the labels of several tasks.

    Subclasses fill ``METAINFO['tasks']`` (by task: kind, names or classes, optionally ``flip``)
    and implement ``load_data_list``. A record is a dict with

    - ``img_path``; ``where``, the record's ``file:line``;
    - ``gt``: by chosen and labelled task, landmarks (P, 2) in pixels, a class as an int from 0,
      attributes (A,) of 0.0 and 1.0, values (V,);
    - ``landmarks``: (P, 2) points for the face box, also of tasks that are not chosen, or None;
    - optionally ``row`` (int), which seeds the evaluation box, so that a subset keeps its boxes;
    - optionally ``region`` (x0, y0, x1, y1 in pixels), the part of the picture for `RegionBox`.

    The pipeline's ``results`` hold the record and ``tasks`` (`Task` by name), ``dataset`` (its
    name), ``input_size``, ``without``, ``box_rule``, ``rng`` (a ``np.random.Generator`` seeded by
    the draw alone, see `draw_of`, and valid for this sample only) and ``eval_seed``, (box_seed,
    row), for the evaluation box.

    An error in the pipeline is raised with the record's name; no other sample replaces it.

    Args:
        tasks: names of the tasks to use, in order; None for all.
        input_size: side, or (height, width), of the network's input in pixels, for `CropResize`.
        box_seed: seed of the evaluation boxes.
        without: augmentations that the pipeline leaves out: 'shift', 'scale', 'turn', 'mirror',
            'colour'.
        skip_unreadable: when a picture is missing or cannot be decoded, log it and go on. Its
            sample is black and has no labels, so no loss and no metric counts it.
        follow_links: accept symbolic links that leave the data root.
        **kwargs: of ``mmengine.dataset.BaseDataset``.

    Raises:
        ConfigError: if a task is unknown or named twice, or a value cannot be used.
        DataError: if the data cannot be read.
    """

    takes_draws = True
    box_rule: str | None = None
    """Rule by which `RegionBox` sets the box."""
    root_hint = "set data_root to the folder of the data; a relative ann_file is searched there"
    """Hint in the message about a missing root."""

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        input_size: int | Sequence[int] | None = None,
        box_seed: int = 0,
        without: Sequence[str] = (),
        skip_unreadable: bool = False,
        follow_links: bool = False,
        lazy_init: bool = False,
        **kwargs: Any,
    ) -> None:
        known = self._known_tasks()
        self.tasks = chosen_names("tasks", tasks, known)
        self.input_size = None if input_size is None else input_shape(input_size, "input_size")
        self.box_seed = box_seed
        self.without = excluded_augmentations(without)
        self.skip_unreadable = bool(skip_unreadable)
        self.follow_links = bool(follow_links)
        self._generator = SampleGenerator()
        super().__init__(lazy_init=True, **kwargs)
        known = {**known, **self._metainfo["tasks"]}
        self._metainfo["tasks"] = {task: known[task] for task in self.tasks}
        self.known = read_tasks(known, "metainfo.tasks.")
        self.described = {task: self.known[task] for task in self.tasks}
        points = [name for name, task in self.described.items() if task.has_points]
        check_mmcv_transforms(self.pipeline.transforms, points)
        if not lazy_init:
            self.full_init()

    def _known_tasks(self) -> dict[str, dict]:
        """The tasks that can be chosen, as ``METAINFO['tasks']`` describes them."""
        return self.METAINFO["tasks"]

    def check_root(self) -> None:
        """Refuse a missing root or annotation file; called before anything expensive starts.

        Raises:
            DataError: saying where to get the data.
        """
        if not os.path.isdir(self.data_root):
            raise DataError(f"data root '{self.data_root}' is not a folder: {self.root_hint}")
        if self.ann_file and not os.path.isfile(self.ann_file):
            raise DataError(f"annotation file '{self.ann_file}' is missing: {self.root_hint}")

    def full_init(self) -> None:
        """Load the records once."""
        if not self._fully_initialized:
            super().full_init()
            self._open()

    def filter_data(self) -> Sequence[dict]:
        """All records; an empty data set is an error."""
        if not self.data_list:
            raise DataError(f"{self.ann_file}: no samples are left for {type(self).__name__}")
        if isinstance(self.data_list, Records):
            self.serialize_data = False  # forked workers share the arrays
        return self.data_list

    def get_data_info(self, idx: int) -> dict:
        """A fresh copy of a record."""
        self.full_init()
        if not isinstance(self.data_list, Records):
            return super().get_data_info(idx)
        index = range(len(self))[idx]
        return dict(self.data_list[index], sample_idx=index)

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """As MMEngine's; empties the caches, since the samples are renumbered."""
        super().get_subset_(indices)
        self._open()

    def _open(self) -> None:
        """Allocate the caches, in memory that data-loader workers share."""
        for transform in self.pipeline.transforms:
            if hasattr(transform, "open"):
                transform.open(len(self))
        if self.skip_unreadable:
            self._unreadable = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def __getitem__(self, index: int) -> dict:
        """The sample of an index after the pipeline; a plain int gets a random augmentation."""
        self.full_init()
        return self.prepare_data(index)

    def prepare_data(self, index: int) -> dict:
        """Run the pipeline on the record of ``index``.

        Raises:
            ConfigError, DataError: an error in a transform; the message begins with the record's
                ``file:line`` and picture.
        """
        results = self.results_of(index)
        where, path = results["where"], results["img_path"]
        try:
            sample = self._sample(results)
        except Exception as error:
            raise _with_record(error, where, path) from error
        if sample is None:
            raise DataError(f"{where}: {path}: the pipeline returned no sample")
        return sample

    def results_of(self, index: int) -> dict:
        """The pipeline's input for the record of ``index``."""
        record = self.get_data_info(int(index))
        return dict(
            record,
            tasks=self.described,
            dataset=self._metainfo.get("dataset"),
            box_rule=self.box_rule,
            without=self.without,
            input_size=self.input_size,
            rng=self._generator.at(draw_of(index), record["sample_idx"]),
            eval_seed=(self.box_seed, record.get("row", record["sample_idx"])),
        )

    def labels_of(self, task: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Targets (n, width) of the labelled samples.

        Args:
            task: name of a task.
            rows: (m,) indices of samples, may repeat; None for all.

        Raises:
            ConfigError: if the data set has no such task.
        """
        if task not in self.described:
            raise ConfigError(f"{type(self).__name__} has no task {task!r}")
        self.full_init()
        rows = np.arange(len(self)) if rows is None else rows
        if isinstance(self.data_list, Records) and task in self.data_list.tables:
            table = self.data_list.tables[task]
            known = self.data_list.rows[rows]
            known = known[table.labelled[known]]
            if known.size:
                targets = self.described[task].encode(table.labels[known])
                return targets.astype(np.float64, copy=False)
            return np.zeros((0, self.described[task].width))
        labels = [self.get_data_info(i)["gt"].get(task) for i in rows.tolist()]
        known = [label for label in labels if label is not None]
        return self.described[task].targets(known, np.float64)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Ids of a sample's classes and attributes, for ``ClassBalancedDataset``."""
        return category_ids(self, idx)

    def _sample(self, results: dict) -> Any:
        if not self.skip_unreadable:
            return self.pipeline(results)
        given = copy.copy(results)
        try:
            return self.pipeline(results)
        except PictureError as error:
            index, where = given["sample_idx"], given["where"]
            if not self._unreadable[index]:
                self._unreadable[index] = 1
                count = int(self._unreadable.sum())
                print_log(
                    f"{where}: {error}: left out (skip_unreadable), {count} of {len(self)} so far",
                    "current",
                    logging.WARNING,
                )
            given.update(gt={}, unreadable=True)
            return self.pipeline(given)


def _with_record(error: Exception, where: str, path: str) -> TrnPluginError:
    """``error`` in one line that begins with the record's ``file:line`` and picture."""
    text = " ".join(str(error).split())
    ours = isinstance(error, TrnPluginError)
    if not ours:
        text = f"{type(error).__name__}: {text}"
    names = [name for name in (where, path) if name not in text]
    return (type(error) if ours else DataError)(": ".join([*names, text]))
