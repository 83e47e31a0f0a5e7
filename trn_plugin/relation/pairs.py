"""Pairs of tasks with equal widths, solved together: which blocks of the covariances are theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trn_plugin.relation import precision
from trn_plugin.relation.solvers.davidson import DavidsonState

__all__ = ["Pairs", "group_pairs"]


class Pairs(nn.Module):
    """P pairs of tasks of widths d1 and d2, the first before the second in each set.

    Each has a set of its own and the same columns, or all have columns of their own in one set.
    ``indices`` are theirs among the pairs of the layer.
    """

    def __init__(self, indices: list[int], sets: slice, columns: list[tuple[slice, slice]]) -> None:
        super().__init__()
        self.indices, self.sets = indices, sets
        self.state: DavidsonState | None = None  # of a solver
        self.widths = tuple(side.stop - side.start for side in columns[0])
        self.is_indexed = len(columns) > 1
        for name, own in zip(("rows", "columns"), zip(*columns, strict=True), strict=True):
            if self.is_indexed:
                index = torch.stack([torch.arange(s.start, s.stop) for s in own])
                self.register_buffer(name, index, persistent=False)  # (P, d)
            else:
                setattr(self, name, own[0])

    def covariances(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """S11 (P, d1, d1), S12 (P, d1, d2) and S22 (P, d2, d2) of covariances (B, D, D)."""
        s, i, j = s[self.sets], self.rows, self.columns
        if not self.is_indexed:
            return s[:, i, i], s[:, i, j], s[:, j, j]
        s = s[0]
        return tuple(s[a[:, :, None], b[:, None]] for a, b in ((i, i), (i, j), (j, j)))

    def take(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (P, N, d1) and (P, N, d2) of the pairs from those of the sets, (B, N, D)."""
        first, second = x[self.sets][..., self.rows], x[self.sets][..., self.columns]
        if self.is_indexed:
            return first[0].transpose(0, 1), second[0].transpose(0, 1)
        return first, second

    def scatter(self, like: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(B, N, D), where :meth:`take` takes from; 0 elsewhere."""
        if len(first) == len(like) and sum(self.widths) == like.shape[2]:
            return torch.cat([first, second], 2)
        total = torch.zeros_like(like)
        for index, values in ((self.rows, first), (self.columns, second)):
            if self.is_indexed:
                total[0].index_add_(1, index.flatten(), values.transpose(0, 1).flatten(1))
            else:
                total[self.sets, :, index] = values
        return total

    def of_sets(self, values: Tensor) -> Tensor:
        """(P,) from the sets' (B,)."""
        return values[self.sets].expand(len(self.indices))


def group_pairs(
    sets: Sequence[tuple[int, ...]], columns: list[slice], pairs: Sequence[tuple[int, int]]
) -> list[Pairs]:
    """The pairs among some sets of tasks, by widths; those of wide tasks each alone."""
    places = {frozenset(tasks): place for place, tasks in enumerate(sets)}
    by_widths: dict[tuple[int, int], list] = {}
    for index, pair in enumerate(pairs):
        place = 0 if len(sets) == 1 else places.get(frozenset(pair))
        if place is not None and set(pair) <= set(sets[place]):
            i, j = sorted(map(sets[place].index, pair))
            own = columns[i], columns[j]
            widths = tuple(side.stop - side.start for side in own)
            by_widths.setdefault(widths, []).append((index, place, own))
    groups = []
    for widths, found in by_widths.items():
        if precision.iterates(*widths):
            groups += [Pairs([i], slice(place, place + 1), [own]) for i, place, own in found]
        else:
            own = [own for *_, own in found] if len(columns) > 2 else [tuple(columns)]
            groups.append(Pairs([index for index, *_ in found], slice(None), own))
    return groups
