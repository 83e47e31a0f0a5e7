"""Pairs of tasks with equal shapes, solved together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trn_plugin.relation.covariance import RunningCovariance
from trn_plugin.relation.precision import working_dtype
from trn_plugin.relation.similarities import Similarity
from trn_plugin.relation.solvers.davidson import Davidson

__all__ = ["JointPairs", "SeparatePairs", "group_pairs"]


class SeparatePairs:
    """The same two positions in some sets: each pair has covariances of its own.

    Args:
        source (RunningCovariance): of the sets.
        indices (list[int]): of the pairs among the layer's.
        sets (slice): which sets.
        first, second (int): positions in a set, in rising order.
    """

    def __init__(
        self, source: RunningCovariance, indices: list[int], sets: slice, first: int, second: int
    ) -> None:
        self.indices = indices
        self.sets = sets
        self.rows, self.columns = source.columns(first), source.columns(second)
        self.is_wide = len(indices) == 1 and _is_wide(source, first, second)

    def covariances(self, source: RunningCovariance) -> tuple[Tensor, Tensor, Tensor]:
        """S11 (P, d1, d1), S12 (P, d1, d2) and S22 (P, d2, d2)."""
        s, rows, columns = source.covariance[self.sets], self.rows, self.columns
        return s[:, rows, rows], s[:, rows, columns], s[:, columns, columns]

    def solve(
        self, source: RunningCovariance, similarity: Similarity, shrinkage: float, own: dict
    ) -> tuple[Tensor, ...]:
        """The similarity (P,), and what its gradient needs."""
        dtype = working_dtype(source.covariance.device)
        return similarity.solve(*(s.to(dtype) for s in self.covariances(source)), shrinkage)

    def take(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (P, N, d1) and (P, N, d2) of the pairs from those of the sets, (B, N, D)."""
        x = x[self.sets]
        return x[..., self.rows], x[..., self.columns]

    def take_joint(self, x: Tensor) -> Tensor:
        """(N, d1 + d2) features of the one pair."""
        (x,) = x[self.sets]
        if self.rows.stop == self.columns.start:
            return x[:, self.rows.start : self.columns.stop]
        return torch.cat([x[:, self.rows], x[:, self.columns]], 1)

    def add(self, total: Tensor, first: Tensor, second: Tensor) -> None:
        """Add to (B, N, D) where :meth:`take` takes from."""
        total[self.sets, :, self.rows] += first
        total[self.sets, :, self.columns] += second

    def of_sets(self, values: Tensor) -> Tensor:
        """(P,) from the sets' (B,)."""
        return values[self.sets]


class JointPairs:
    """Pairs of widths d1 and d2 within one set: blocks of one joint covariance.

    Args:
        source (RunningCovariance): of the set.
        indices (list[int]): of the pairs among the layer's.
        positions (list[tuple[int, int]]): of their tasks in the set, in rising order.
    """

    is_wide = False

    def __init__(
        self, source: RunningCovariance, indices: list[int], positions: list[tuple[int, int]]
    ) -> None:
        device = source.covariance.device
        self.indices = indices
        self.widths = tuple(source.dims[position] for position in positions[0])
        self.tasks: dict[int, Tensor] = {}  # (T, d) columns of the tasks of a width
        self.places: list[Tensor] = []  # (P,) rows of that, of each side
        for side, width in enumerate(self.widths):
            alike = [t for t, d in enumerate(source.dims) if d == width]
            columns = [range(source.columns(t).start, source.columns(t).stop) for t in alike]
            self.tasks[width] = torch.tensor([list(c) for c in columns], device=device)
            places = [alike.index(pair[side]) for pair in positions]
            self.places.append(torch.tensor(places, device=device))
        (first, second), (rows, columns) = self.places, map(self.tasks.get, self.widths)
        self.rows, self.columns = rows[first], columns[second]

    def solve(
        self, source: RunningCovariance, similarity: Similarity, shrinkage: float, own: dict
    ) -> tuple[Tensor, ...]:
        """As of :class:`SeparatePairs`; ``own`` keeps what each task of a width needs once."""
        s = source.covariance[0].to(working_dtype(source.covariance.device))
        for width, tasks in self.tasks.items():
            if width not in own:
                own[width] = similarity.own(s[tasks[:, :, None], tasks[:, None]], shrinkage)
        s12 = s[self.rows[:, :, None], self.columns[:, None]]
        own1, own2 = (
            tuple(tensor[places] for tensor in own[width])
            for width, places in zip(self.widths, self.places, strict=True)
        )
        return similarity.between(own1, s12, own2, shrinkage)

    def take(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As of :class:`SeparatePairs`."""
        return x[0][:, self.rows].transpose(0, 1), x[0][:, self.columns].transpose(0, 1)

    def add(self, total: Tensor, first: Tensor, second: Tensor) -> None:
        """As of :class:`SeparatePairs`."""
        for index, values in ((self.rows, first), (self.columns, second)):
            total[0].index_add_(1, index.flatten(), values.transpose(0, 1).flatten(1))

    def of_sets(self, values: Tensor) -> Tensor:
        """As of :class:`SeparatePairs`."""
        return values.expand(len(self.indices))


def group_pairs(
    source: RunningCovariance, pairs: Sequence[tuple[int, int]]
) -> list[SeparatePairs | JointPairs]:
    """The pairs that a covariance measures, by shape; on the host, wide ones each alone.

    Args:
        source (RunningCovariance): of one set of tasks, or of sets of two tasks each.
        pairs (Sequence[tuple[int, int]]): all pairs of the layer.
    """
    if len(source.sets) > 1 or len(source.dims) == 2:
        index = {frozenset(pair): i for i, pair in enumerate(pairs)}
        indices = [index[frozenset(tasks)] for tasks in source.sets]
        if _is_wide(source, 0, 1):
            return [
                SeparatePairs(source, [i], slice(b, b + 1), 0, 1) for b, i in enumerate(indices)
            ]
        return [SeparatePairs(source, indices, slice(None), 0, 1)]
    (tasks,) = source.sets
    groups: list[SeparatePairs | JointPairs] = []
    by_shape: dict[tuple[int, int], tuple[list[int], list[tuple[int, int]]]] = {}
    for index, pair in enumerate(pairs):
        first, second = sorted(tasks.index(task) for task in pair)
        shape = source.dims[first], source.dims[second]
        if _is_wide(source, first, second):
            groups.append(SeparatePairs(source, [index], slice(0, 1), first, second))
        else:
            indices, positions = by_shape.setdefault(shape, ([], []))
            indices.append(index)
            positions.append((first, second))
    return groups + [JointPairs(source, *found) for found in by_shape.values()]


def _is_wide(source: RunningCovariance, first: int, second: int) -> bool:
    return source.on_host and Davidson.suits(source.dims[first], source.dims[second])
