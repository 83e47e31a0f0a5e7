"""Pairs of tasks of equal shapes, solved together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trn_plugin.relation._canonical import canonical_vectors, factor
from trn_plugin.relation._host import SMALL, small_pair
from trn_plugin.relation._moments import RunningMoments
from trn_plugin.relation._ranks import working_dtype
from trn_plugin.relation._warm import WarmPair

__all__ = ["JointPairs", "SetPairs", "group_pairs"]


class SetPairs:
    """The same two positions in some sets of a group: each pair has moments of its own.

    Args:
        group (RunningMoments): whose moments.
        pairs (list[int]): their places among the layer's pairs.
        sets (slice): which sets.
        first, second (int): positions in a set, in rising order.
    """

    def __init__(
        self, group: RunningMoments, pairs: list[int], sets: slice, first: int, second: int
    ) -> None:
        self.pairs = pairs
        self.sets = sets
        self.rows, self.columns = group.slot(first), group.slot(second)
        self.is_one = len(pairs) == 1
        self.is_wide = self.is_one and _is_wide(group, first, second)
        narrow = max(group.dims[first], group.dims[second]) <= SMALL
        self.is_small = self.is_one and narrow and group.moments.device.type == "cpu"

    def moments(self, group: RunningMoments) -> tuple[Tensor, Tensor, Tensor]:
        """S11 (P, d1, d1), S12 (P, d1, d2) and S22 (P, d2, d2)."""
        s = group.moments[self.sets]
        rows, columns = self.rows, self.columns
        return s[:, rows, rows], s[:, rows, columns], s[:, columns, columns]

    def solve(
        self, group: RunningMoments, shrinkage: float, factors: dict, method=canonical_vectors
    ) -> tuple[Tensor, ...]:
        """tau (P,), a (P, d1) and b (P, d2) of the moments, or what else ``method`` makes."""
        s11, s12, s22 = (s.to(working_dtype(s.device)) for s in self.moments(group))
        if self.is_small and method is canonical_vectors:
            found = small_pair(*(s[0].numpy() for s in (s11, s12, s22)), shrinkage)
            if found is not None:
                return tuple(map(torch.from_numpy, found))
        on_host = s12.device.type == "cpu"
        return method(*factor(s11, shrinkage), s12, *factor(s22, shrinkage), on_host)

    def take(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (P, N, d1) and (P, N, d2) of the pairs from those of the sets, (B, N, D)."""
        x = x[self.sets]
        return x[..., self.rows], x[..., self.columns]

    def side_by_side(self, x: Tensor) -> Tensor:
        """(N, d1 + d2) features of the one pair that there is."""
        (x,) = x[self.sets]
        if self.rows.stop == self.columns.start:
            return x[:, self.rows.start : self.columns.stop]
        return torch.cat([x[:, self.rows], x[:, self.columns]], 1)

    def add(self, total: Tensor, first: Tensor, second: Tensor) -> None:
        """Add to (B, N, D) where :meth:`take` takes from."""
        total[self.sets, :, self.rows] += first
        total[self.sets, :, self.columns] += second

    def by_set(self, values: Tensor) -> Tensor:
        """(P,) from the sets' (B,)."""
        return values[self.sets]


class JointPairs:
    """Pairs of widths d1 and d2 within the one set of a group: blocks of a joint covariance.

    Args:
        group (RunningMoments): whose moments.
        pairs (list[int]): their places among the layer's pairs.
        positions (list[tuple[int, int]]): of their tasks in the set, in rising order.
    """

    is_one = False  # as of SetPairs: a pair whose features are views
    is_wide = False

    def __init__(
        self, group: RunningMoments, pairs: list[int], positions: list[tuple[int, int]]
    ) -> None:
        device = group.moments.device
        self.pairs = pairs
        self.widths = tuple(group.dims[position] for position in positions[0])
        self.tasks: dict[int, Tensor] = {}
        self.places: list[Tensor] = []
        for side, width in enumerate(self.widths):
            alike = [t for t, d in enumerate(group.dims) if d == width]
            slots = [list(range(group.slot(t).start, group.slot(t).stop)) for t in alike]
            self.tasks[width] = torch.tensor(slots, device=device)
            places = [alike.index(pair[side]) for pair in positions]
            self.places.append(torch.tensor(places, device=device))
        (first, second), (rows, columns) = self.places, map(self.tasks.get, self.widths)
        self.rows, self.columns = rows[first], columns[second]

    def solve(
        self, group: RunningMoments, shrinkage: float, factors: dict, method=canonical_vectors
    ) -> tuple[Tensor, ...]:
        """As of :class:`SetPairs`; ``factors`` holds each task's, by width."""
        s = group.moments[0].to(working_dtype(group.moments.device))
        for width, tasks in self.tasks.items():
            if width not in factors:
                factors[width] = factor(s[tasks[:, :, None], tasks[:, None]], shrinkage)
        s12 = s[self.rows[:, :, None], self.columns[:, None]]
        (l1, unit1), (l2, unit2) = (
            tuple(x[places] for x in factors[width])
            for width, places in zip(self.widths, self.places, strict=True)
        )
        on_host = s.device.type == "cpu"
        return method(l1, unit1, s12, l2, unit2, on_host)

    def take(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As of :class:`SetPairs`."""
        return x[0][:, self.rows].transpose(0, 1), x[0][:, self.columns].transpose(0, 1)

    def add(self, total: Tensor, first: Tensor, second: Tensor) -> None:
        """As of :class:`SetPairs`."""
        for index, values in ((self.rows, first), (self.columns, second)):
            total[0].index_add_(1, index.flatten(), values.transpose(0, 1).flatten(1))

    def by_set(self, values: Tensor) -> Tensor:
        """As of :class:`SetPairs`."""
        return values.expand(len(self.pairs))


def group_pairs(
    group: RunningMoments, pairs: Sequence[tuple[int, int]]
) -> list[SetPairs | JointPairs]:
    """The pairs that a group of moments measures, by shape; wide ones each alone on a CPU.

    Args:
        group (RunningMoments): moments of one set of tasks, or of sets of two tasks each.
        pairs (Sequence[tuple[int, int]]): all pairs of the layer.
    """
    if len(group.sets) > 1 or len(group.dims) == 2:
        index = {frozenset(pair): i for i, pair in enumerate(pairs)}
        places = [index[frozenset(members)] for members in group.sets]
        if _is_wide(group, 0, 1):
            return [SetPairs(group, [p], slice(b, b + 1), 0, 1) for b, p in enumerate(places)]
        return [SetPairs(group, places, slice(None), 0, 1)]
    (members,) = group.sets
    solved: list[SetPairs | JointPairs] = []
    by_shape: dict[tuple[int, int], tuple[list[int], list[tuple[int, int]]]] = {}
    for place, pair in enumerate(pairs):
        first, second = sorted(members.index(task) for task in pair)
        shape = group.dims[first], group.dims[second]
        if _is_wide(group, first, second):
            solved.append(SetPairs(group, [place], slice(0, 1), first, second))
        else:
            for found, new in zip(
                by_shape.setdefault(shape, ([], [])), (place, (first, second)), strict=True
            ):
                found.append(new)
    return solved + [JointPairs(group, *found) for found in by_shape.values()]


def _is_wide(group: RunningMoments, first: int, second: int) -> bool:
    """Whether a pair is solved from a warm start."""
    widths = group.dims[first], group.dims[second]
    return group.moments.device.type == "cpu" and WarmPair.suits(*widths)
