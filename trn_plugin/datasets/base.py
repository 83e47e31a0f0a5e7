"""What every data set of this package does with its records."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from trn_plugin.datasets._options import augmentations, check_foreign, chosen_tasks, input_shape
from trn_plugin.datasets._records import Records
from trn_plugin.datasets.draws import DrawnResults, SampleGenerator, draw_of
from trn_plugin.datasets.wrapped import category_ids, mean_or_nan, moments
from trn_plugin.errors import ConfigError, DataError, PictureError, TrnPluginError
from trn_plugin.tasks import read_tasks

__all__ = ["MultiTaskDataset"]


class MultiTaskDataset(BaseDataset):
    """Pictures with the labels of several tasks.

    Subclasses fill ``METAINFO['tasks']`` (task name -> its kind, names or classes, and what a
    mirror swaps) and implement ``load_data_list``. A record is
    ``dict(img_path, gt={task: label}, landmarks, where)``: ``gt`` holds the chosen tasks that are
    labelled (landmarks (P, 2) in the picture's pixels, a class as an int from 0, attributes as
    (A,) floats of 0 and 1, values as (V,) floats), ``landmarks`` the (P, 2) points or None,
    chosen or not, as face boxes are made from them, and ``where`` is ``file:line``. An optional
    ``row`` (int) keys the evaluation boxes, so that a subset keeps them; an optional ``region``
    (x0, y0, x1, y1 in pixels) is the part of the picture that `RegionBox` takes.

    The pipeline finds in its ``results``, besides the record: ``tasks`` (`Task` by name),
    ``dataset`` (its name), ``input_size``, ``without``, ``box_rule``, ``rng`` (a
    ``np.random.Generator`` whose numbers depend on the draw alone, see `draw_of`; the next sample
    sets it anew) and ``eval_rng`` (made from (box_seed, row) alone: the same in every epoch and
    run).

    A sample that fails is an error naming its record; no other sample takes its place. With
    ``skip_unreadable``, ``num_unreadable`` says how many different records had no readable picture.

    Args:
        tasks: names of the tasks to use, in order; None for all.
        input_size: side, or (height, width), of the network's input in pixels, for `CropResize`.
        box_seed: seed of the boxes drawn for evaluation.
        without: what training pictures are spared, out of 'shift', 'scale', 'turn', 'mirror' and
            'colour': the transforms of the pipeline leave it out.
        skip_unreadable: go on when a picture is missing or cannot be decoded. Its sample is then
            black and has no labels, so that no loss and no metric counts it; the log names it
            and how many there were so far.
        follow_links: also take pictures to which a symbolic link leads out of the data's folder.
        **kwargs: of ``mmengine.dataset.BaseDataset``.

    Raises:
        ConfigError: if a task is unknown or named twice, or a value cannot be used.
        DataError: if the data cannot be read.
    """

    takes_draws = True
    box_rule: str | None = None
    """What `RegionBox` makes boxes of, see there."""

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
        self.tasks = chosen_tasks(type(self).__name__, tasks, known)
        self.input_size = None if input_size is None else input_shape(input_size, "input_size")
        if not isinstance(box_seed, int) or box_seed < 0:
            raise ConfigError(f"box_seed: expected an integer of at least 0, found {box_seed!r}")
        self.box_seed = box_seed
        self.without = augmentations(without)
        self.skip_unreadable = bool(skip_unreadable)
        self.follow_links = bool(follow_links)
        self._draws = SampleGenerator()
        super().__init__(lazy_init=True, **kwargs)
        known = {**known, **self._metainfo["tasks"]}
        self._metainfo["tasks"] = {task: known[task] for task in self.tasks}
        self.known = read_tasks(known, "metainfo.tasks.")
        self.described = {task: self.known[task] for task in self.tasks}
        points = [name for name, task in self.described.items() if task.has_points]
        check_foreign(self.pipeline.transforms, points)
        if not lazy_init:
            self.full_init()

    def _known_tasks(self) -> dict[str, dict]:
        """The tasks that can be chosen, as ``METAINFO['tasks']`` describes them."""
        return self.METAINFO["tasks"]

    def check_root(self) -> None:
        """Refuse a data root that is not there; called before anything expensive is begun.

        Raises:
            DataError: saying where to get the data.
        """

    def full_init(self) -> None:
        """Load the records once; an empty data set is an error."""
        if self._fully_initialized:
            return
        self.data_list = self.load_data_list()
        self.data_list = self._chosen_records(self.filter_data())
        if not self.data_list:
            raise DataError(f"{self.ann_file}: no samples are left for {type(self).__name__}")
        if isinstance(self.data_list, Records):
            self.serialize_data = False  # arrays already, which forked workers share
        if self.serialize_data:
            self.data_bytes, self.data_address = self._serialize_data()
        self._fully_initialized = True
        self._open()

    def get_data_info(self, idx: int) -> dict:
        """The record of an index, made anew."""
        self.full_init()
        if not isinstance(self.data_list, Records):
            return super().get_data_info(idx)
        index = range(len(self))[idx]
        return dict(self.data_list[index], sample_idx=index)

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """As MMEngine's; samples are numbered anew, so that what was kept of them is not theirs."""
        super().get_subset_(indices)
        self._open()

    def _open(self) -> None:
        """Make memory for what is kept of the samples."""
        for transform in self.pipeline.transforms:
            if hasattr(transform, "open"):
                transform.open(len(self))
        if self.skip_unreadable:
            # in memory that data-loader workers share
            self._unreadable = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def _chosen_records(self, records: Sequence[dict]) -> Sequence[dict]:
        """The records that ``indices`` chooses: the first n, the last -n, or a list of them."""
        indices = self._indices
        if indices is None:
            return records
        if isinstance(indices, int):
            return records[:indices] if indices >= 0 else records[indices:]
        try:
            if isinstance(records, Records):
                return records[indices]
            return [records[index] for index in indices]
        except IndexError:
            raise ConfigError(
                f"indices: expected numbers below {len(records)}, found {max(indices)}"
            ) from None

    def __getitem__(self, index: int) -> dict:
        """The sample of an index, after the pipeline; without a draw (`draw_of`) a random view."""
        self.full_init()
        return self.prepare_data(index)

    def prepare_data(self, index: int) -> dict:
        """Run the pipeline on the record of ``index``.

        Raises:
            ConfigError, DataError: naming the record, whatever a transform raised.
        """
        _one_thread_in_workers()
        results, record = self._results(index)
        try:
            sample = self._sample(results)
        except Exception as error:
            raise _named(error, record) from error
        if sample is None:
            raise DataError(f"{record['where']}: {record['img_path']}: the pipeline gave no sample")
        return sample

    def results_of(self, index: int) -> dict:
        """What the pipeline is given of the record of ``index``."""
        return self._results(index)[0]

    def _results(self, index: int) -> tuple[dict, dict]:
        record = self.get_data_info(int(index))
        row = record.get("row", record["sample_idx"])
        results = DrawnResults(
            record,
            eval_key=(self.box_seed, row),
            tasks=self.described,
            dataset=self._metainfo.get("dataset"),
            box_rule=self.box_rule,
            without=self.without,
            input_size=self.input_size,
            rng=self._draws.at(draw_of(index), record["sample_idx"]),
        )
        return results, record

    @property
    def num_unreadable(self) -> int:
        """How many records were left out so far because their picture could not be read."""
        return int(self._unreadable.sum()) if self.skip_unreadable else 0

    def positive_shares(self, task: str) -> np.ndarray:
        """The share of ones in the labels of an attribute task, (A,); NaN where none has a label.

        Raises:
            ConfigError: if the data set has no such task.
        """
        return mean_or_nan(self.labels_of(task))

    def value_moments(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the labels of a task of values, (V,) each; NaN without.

        Raises:
            ConfigError: if the data set has no such task.
        """
        return moments(self.labels_of(task))

    def labels_of(self, task: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Targets of the labels that there are, one in each row, (n, width).

        Args:
            task: name of a task.
            rows: (m,) indices of the samples, which may repeat; None for all.

        Raises:
            ConfigError: if the data set has no such task.
        """
        if task not in self.described:
            raise ConfigError(f"{type(self).__name__} has no task {task!r}")
        self.full_init()
        rows = np.arange(len(self)) if rows is None else rows
        if isinstance(self.data_list, Records) and task in self.data_list.tables:
            table = self.data_list.tables[task]
            own = self.data_list.rows[rows]
            own = own[table.there[own]]
            if own.size:
                targets = self.described[task].encode(table.labels[own])
                return targets.astype(np.float64, copy=False)
            return np.zeros((0, self.described[task].width))
        samples, copies = np.unique(rows, return_counts=True)
        labels = [self.get_data_info(i)["gt"].get(task) for i in samples.tolist()]
        there = [label is not None for label in labels]
        targets = self.described[task].targets(
            [label for label in labels if label is not None], np.float64
        )
        return np.repeat(targets, copies[there], axis=0)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Numbers of the classes and attributes that a sample has, for ``ClassBalancedDataset``."""
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
                print_log(
                    f"{where}: {error}: left out (skip_unreadable), {self.num_unreadable} of "
                    f"{len(self)} so far",
                    "current",
                    logging.WARNING,
                )
            given.update(gt={}, unreadable=True)
            return self.pipeline(given)


def _named(error: Exception, record: dict) -> TrnPluginError:
    """``error`` as one line that names the record."""
    text = " ".join(str(error).split())
    ours = isinstance(error, TrnPluginError)
    if not ours:
        text = f"{type(error).__name__}: {text}"
    names = [name for name in (record["where"], record["img_path"]) if name not in text]
    return (type(error) if ours else DataError)(": ".join([*names, text]))


def _one_thread_in_workers() -> None:
    """OpenCV's threads of several workers fight for the same cores."""
    if get_worker_info() is not None and cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)
