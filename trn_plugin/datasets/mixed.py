"""Join data sets of different tasks, and sample each by a share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, ConcatDataset

from trn_plugin.datasets.draws import SampleDraw
from trn_plugin.datasets.sampler import DrawSampler
from trn_plugin.datasets.wrapped import category_ids
from trn_plugin.errors import ConfigError
from trn_plugin.registry import DATA_SAMPLERS, DATASETS

__all__ = ["MixedDataset", "ShareSampler"]

EPOCH, PASS = 0, 1  # independent random streams


@DATASETS.register_module()
class MixedDataset(ConcatDataset):
    """MMEngine's ``ConcatDataset`` for data sets of different tasks.

    A sample has the labels of its own data set. ``metainfo['tasks']`` holds the tasks of all data
    sets, ``metainfo['tasks_together']`` the tasks of each, ``metainfo['datasets']`` their names.

    Args:
        datasets: data sets that wrap no others, or their configs.
        lazy_init: load the labels on first use.

    Raises:
        ConfigError: no data set, a wrapping data set, two of the same name, or two that describe a
            task differently.
    """

    def __init__(self, datasets: Sequence[Any], lazy_init: bool = False) -> None:
        if not isinstance(datasets, (list, tuple)) or not datasets:
            raise ConfigError(f"datasets: expected a list of data sets, found {datasets!r}")
        built = [DATASETS.build(each) if isinstance(each, dict) else each for each in datasets]
        for number, each in enumerate(built):
            if not isinstance(each, BaseDataset):
                raise ConfigError(
                    f"datasets[{number}]: expected a data set that wraps no other, found "
                    f"{type(each).__name__}; ShareSampler(shares=...) sets how often each is read"
                )
        keys = {key for each in built for key in each.metainfo}
        super().__init__(built, lazy_init=lazy_init, ignore_keys=sorted(keys))
        tasks: dict[str, dict] = {}
        for each in built:
            for task, info in each.metainfo.get("tasks", {}).items():
                if tasks.setdefault(task, info) != info:
                    raise ConfigError(
                        f"datasets: two of them describe the task {task!r} differently, "
                        f"{tasks[task]} and {info}"
                    )
        together = [list(each.metainfo.get("tasks", {})) for each in built]
        names = [str(each.metainfo.get("dataset", type(each).__name__)) for each in built]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ConfigError(
                f"datasets: two have the name {repeated!r}; give each a name of its own, "
                'metainfo=dict(dataset="name")'
            )
        self._metainfo = dict(
            self._metainfo,
            tasks=tasks,
            tasks_together=together,
            dataset="+".join(names),
            datasets=names,
        )

    def get_cat_ids(self, idx: int) -> list[int]:
        """See `MultiTaskDataset`; numbered over the tasks of all data sets."""
        return category_ids(self, idx)


@DATA_SAMPLERS.register_module()
class ShareSampler(DrawSampler):
    """Samples each data set of a ``ConcatDataset`` or `MixedDataset` by its share.

    An epoch has as many samples as all data sets together. Each data set is read in random order
    without replacement and reshuffled after each pass. A pass continues in the next epoch, so all
    samples of a data set are seen equally often.

    Args:
        dataset: the loader's data set.
        shares: a positive weight for each data set; they need not sum to 1.
        seed: seed of order and augmentations; None: a random one, shared by all processes.
        round_up: pad so that all processes get equally many samples.

    Raises:
        ConfigError: not one positive share for each data set, or a share so small that an epoch has
            no sample of its data set.
    """

    def __init__(
        self,
        dataset: Any,
        shares: Sequence[float],
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        super().__init__(dataset, shuffle=True, seed=seed, round_up=round_up)
        ends = getattr(dataset, "cumulative_sizes", None)
        if ends is None:
            raise ConfigError("ShareSampler: expected a ConcatDataset or a MixedDataset")
        numbers = isinstance(shares, (list, tuple)) and all(
            isinstance(share, (int, float)) and 0 < share < float("inf") for share in shares
        )
        if not numbers or len(shares) != len(ends):
            raise ConfigError(
                f"ShareSampler.shares: expected {len(ends)} positive numbers, one for each data "
                f"set, found {shares!r}"
            )
        self.sizes = np.diff([0, *ends])
        bounds = np.cumsum(shares) / np.sum(shares) * len(dataset)
        self.counts = np.diff([0, *bounds.round().astype(int)])
        """Samples of each data set in an epoch."""
        if not self.counts.all():
            raise ConfigError(
                f"ShareSampler.shares: expected at least one sample of each data set in an epoch "
                f"of {len(dataset)}, {shares!r} give {self.counts.tolist()}"
            )

    def __iter__(self) -> Iterator[SampleDraw]:
        order = np.concatenate([self._sampled(part) for part in range(len(self.sizes))])
        order = np.random.default_rng((self.seed, EPOCH, self.epoch)).permutation(order)
        order = np.resize(order, self.total_size) if self.round_up else order
        # the position makes repeated draws of a sample differ
        for position in range(self.rank, self.total_size, self.world_size):
            yield SampleDraw(int(order[position]), self.epoch, self.seed, position)

    def _sampled(self, part: int) -> np.ndarray:
        """Indices sampled from a data set in this epoch."""
        size, count = int(self.sizes[part]), int(self.counts[part])
        start = self.epoch * count
        passes = range(start // size, -(-(start + count) // size))
        orders = [
            np.random.default_rng((self.seed, PASS, part, number)).permutation(size)
            for number in passes
        ]
        indices = np.concatenate([*orders, np.zeros(0, int)])[start - passes.start * size :]
        return indices[:count] + int(self.sizes[:part].sum())
