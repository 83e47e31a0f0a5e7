"""Read labels of a batch as matrices, from data samples of any structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from trn_plugin.device_flags import DeviceFlags
from trn_plugin.errors import ConfigError, shown

__all__ = ["LabelReader", "Labels"]

_ABSENT = object()
_NO_INDEX = torch.iinfo(torch.int64).min


class Labels(NamedTuple):
    """Labels of one task in a batch of N samples.

    Attributes:
        values (Tensor, optional): (N, d); None if no sample has a label.
        mask (Tensor, optional): (N,) bool, the samples that have a label; None for all.
        present (Tensor): (n,) int64 on the CPU, the samples with an entry at the path, including
            NaN and ``ignore_index``.
    """

    values: Tensor | None
    mask: Tensor | None
    present: Tensor


class LabelReader:
    """Reads the labels of one task from the data samples of a batch.

    A label is missing if the path leads to nothing or None, or if the label contains NaN or is
    ``ignore_index``.

    Args:
        config (str | Mapping): one of the ``labels`` of ``TaskRelationLossHook``.
        where (str): the config key, for errors.

    Raises:
        ConfigError: an invalid config.
    """

    def __init__(self, config: str | Mapping, where: str) -> None:
        options = {"path": config} if isinstance(config, str) else config
        known = {"path", "num_classes", "ignore_index"}
        if not isinstance(options, Mapping) or "path" not in options or set(options) - known:
            raise ConfigError(
                f"{where}: expected a path or dict(path=..., num_classes=..., ignore_index=...), "
                f"found {config!r}"
            )
        if not isinstance(options["path"], str) or not all(options["path"].split(".")):
            raise ConfigError(f"{where}: expected names joined by dots, found {options['path']!r}")
        self.path = options["path"]
        self.num_classes = options.get("num_classes")
        self.ignore_index = options.get("ignore_index")
        classes = self.num_classes
        if classes is not None and (not isinstance(classes, int) or classes < 2):
            raise ConfigError(
                f"{where}.num_classes: expected a number of at least 2, found {classes!r}"
            )
        self.where = where
        self._bad_indices = DeviceFlags()

    def read(self, samples, device: torch.device) -> Labels:
        """Read the labels of a batch.

        Args:
            samples (Sequence | Mapping): N data samples, or a mapping that holds batches of N.
            device (torch.device): where the labels are needed.

        Raises:
            ConfigError: a label that is not numeric, not a class index, or of another width. A
                class index out of range is reported a step or two later on devices other than
                CPUs, to avoid synchronisation.
        """
        rows = self._rows(samples)
        is_present = torch.tensor([row is not None for row in rows], dtype=torch.bool)
        present = is_present.nonzero()[:, 0]
        mask = None if is_present.all() else is_present.to(device, non_blocking=True)
        found = [row for row in rows if row is not None]
        if not found:
            return Labels(None, mask, present)
        sizes = sorted({row.numel() for row in found})
        if len(sizes) > 1:
            raise ConfigError(
                f"{self.where}: expected the same width in each sample, {self.path!r} gives "
                f"{' and '.join(map(str, sizes))}"
            )
        blank = torch.zeros_like(found[0])
        values = torch.stack([blank if row is None else row for row in rows])
        values = values.to(device, non_blocking=True)
        if self.num_classes is not None:
            return Labels(*self._one_hot(values, mask), present)
        if _is_index(values) and values.shape[1] == 1:
            raise ConfigError(
                f"{self.where}: {self.path!r} is a whole number; for a class index give "
                f"dict(path={self.path!r}, num_classes=...), else let the data set give a float"
            )
        if not values.is_floating_point():
            return Labels(values.float(), mask, present)
        known = ~values.isnan().any(1)
        return Labels(values, known if mask is None else mask & known, present)

    def describe_path(self, samples) -> str:
        """Describe where the path fails in the first data sample."""
        if not isinstance(samples, Mapping) and not len(samples):
            return "it is empty"
        sample = samples if isinstance(samples, Mapping) else samples[0]
        parts = self.path.split(".")
        for depth, part in enumerate(parts):
            following = _step(sample, part)
            if following is _ABSENT or following is None:
                place = "".join(f".{p}" for p in parts[:depth])
                return f"data_sample{place} ({type(sample).__name__}) has {_contents(sample)}"
            sample = following
        return f"data_sample.{self.path} holds only None"

    def _rows(self, samples) -> list[Tensor | None]:
        if not isinstance(samples, Mapping):
            return [self._row(_follow(sample, self.path)) for sample in samples]
        count = number_of_samples(samples, self.where)
        batch = _follow(samples, self.path)
        if batch is None:
            return [None] * count
        if not _is_batch(batch) or len(batch) != count:
            raise ConfigError(
                f"{self.where}: {self.path!r} leads to {_described(batch)}, expected a batch of "
                f"{count}"
            )
        return [self._row(value) for value in batch]

    def _row(self, value) -> Tensor | None:
        """A label as (d,), on its own device."""
        if value is None:
            return None
        try:
            row = value.detach() if torch.is_tensor(value) else torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError, RuntimeError):
            row = None
        if row is None or row.is_complex() or row.numel() == 0:
            raise ConfigError(
                f"{self.where}: {self.path!r} leads to {_described(value)}, expected numbers"
            )
        return row.reshape(-1)

    def _one_hot(self, index: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if not _is_index(index) or index.shape[1] != 1:
            raise ConfigError(
                f"{self.where}: expected one class index in each sample, as num_classes is given, "
                f"found {index.shape[1]} numbers of {index.dtype}"
            )
        if self.ignore_index is not None:
            known = index[:, 0] != self.ignore_index
            mask = known if mask is None else mask & known
        bad = (index[:, 0] < 0) | (index[:, 0] >= self.num_classes)
        bad = bad if mask is None else mask & bad
        self._bad_indices.put(torch.where(bad, index[:, 0].long(), _NO_INDEX).amax())
        for found in map(int, self._bad_indices.take()):
            if found != _NO_INDEX:
                raise ConfigError(
                    f"{self.where}: {self.path!r} gives the class index {found}, expected 0 to "
                    f"{self.num_classes - 1}, or ignore_index ({self.ignore_index})"
                )
        classes = torch.arange(self.num_classes, device=index.device)
        return (index == classes).float(), mask


def number_of_samples(samples, where: str) -> int:
    """N of a sequence of samples or of a mapping of batches; else a ConfigError."""
    if isinstance(samples, Mapping):
        sizes = [len(value) for value in samples.values() if _is_batch(value)]
        if sizes:
            return sizes[0]
    elif _is_batch(samples):
        return len(samples)
    raise ConfigError(
        f"{where}: expected a list of data samples or a mapping of batches, "
        f"found {_described(samples)}"
    )


def _is_batch(value) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _follow(sample, path: str):
    for part in path.split("."):
        sample = _step(sample, part)
        if sample is _ABSENT or sample is None:
            return None
    return sample


def _step(value, name: str):
    if isinstance(value, Mapping):
        return value.get(name, _ABSENT)
    if name.isdecimal() and _is_batch(value):
        return value[int(name)] if int(name) < len(value) else _ABSENT
    found = getattr(value, name, _ABSENT)
    return _ABSENT if callable(found) else found  # a method is not data


def _contents(value) -> str:
    """The names in a data sample, or its length."""
    if _is_batch(value):
        return f"{len(value)} positions"
    names = [name for name in getattr(value, "__dict__", ()) if not name.startswith("_")]
    if isinstance(value, BaseDataElement):
        names = value.all_keys()
    elif isinstance(value, Mapping):
        names = value
    return ", ".join(sorted(map(str, names))[:20]) or "nothing"


def _described(value) -> str:
    if isinstance(value, (Mapping, BaseDataElement)):
        return f"a {type(value).__name__} with {_contents(value)}"
    return f"{shown(value)} ({type(value).__name__})"


def _is_index(row: Tensor) -> bool:
    return not row.is_floating_point() and row.dtype != torch.bool
