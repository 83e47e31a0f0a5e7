"""Which tasks a group of moments holds, and where their features are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trn_plugin.relation._moments import RunningMoments
from trn_plugin.relation._pairs import group_pairs

__all__ = ["Members"]


class Members:
    """The tasks of a group's B sets, and the pairs that it measures.

    Attributes:
        group (RunningMoments): the moments.
        pairs (list): classes of pairs, see ``group_pairs``.
        tasks (Tensor): (B, tasks of a set) indices of the layer's tasks.

    Args:
        group (RunningMoments): the moments.
        dims (Sequence[int]): widths of all the layer's tasks.
        pairs (Sequence[tuple[int, int]]): all the layer's pairs.
    """

    def __init__(
        self, group: RunningMoments, dims: Sequence[int], pairs: Sequence[tuple[int, int]]
    ) -> None:
        device = group.moments.device
        self.group = group
        self.pairs = group_pairs(group, pairs)
        self.tasks = torch.tensor(group.sets, device=device)
        self._width = sum(dims)
        self._is_all = group.sets == (tuple(range(len(dims))),)
        starts = [sum(dims[:task]) for task in range(len(dims))]
        columns = [
            [start for task in members for start in range(starts[task], starts[task] + dims[task])]
            for members in group.sets
        ]
        self._columns = torch.tensor(columns, device=device)

    def take(self, joint: Tensor) -> Tensor:
        """Features of the sets (B, N, D) from those of all tasks side by side, (N, all)."""
        return joint[None] if self._is_all else joint[:, self._columns].transpose(0, 1)

    def spread(self, by_set: Tensor, total: Tensor | None) -> Tensor:
        """(N, all) sum of ``total`` and of what belongs to each task in (B, N, D)."""
        if self._is_all:
            return by_set[0]
        if total is None:
            total = by_set.new_zeros(by_set.shape[1], self._width)
        values = by_set.transpose(0, 1).flatten(1)
        return total.index_add_(1, self._columns.flatten(), values.to(total.dtype))
