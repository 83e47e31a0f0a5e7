"""Running second moments of several tasks' features."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from trn_plugin.relation._canonical import normalised
from trn_plugin.relation._host import times
from trn_plugin.relation._ranks import sum_over_ranks, working_dtype, world_size

__all__ = ["RunningMoments", "centre"]

# from this many features on products are taken in the features' own precision, blocks that
# symmetry gives are left out, and the time goes into arithmetic instead of calls
WIDE = 192
# share of a task's variance in one direction above which float64 is used
DOMINANT = 0.55
# sum of squares of a task's features below which float64 is used
SMALLEST = 1e-24
# least share of a feature's variance that the others may leave to it: of less, the rounding of
# float32 moments is so much that float64 is used
INDEPENDENT = 5e-3


def centre(x: Tensor, mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Subtract the mean over the samples of ``mask`` on all ranks; other rows become 0.

    Args:
        x (Tensor): (B, N, D) features of B sets of tasks, which may be overwritten.
        mask (Tensor, optional): (B, N) bool, which samples count for each set; None for all.
        dtype (torch.dtype): of the centred features.

    Returns:
        The centred features, and the numbers of samples (B,) in the working dtype.
    """
    working = working_dtype(x.device)
    if mask is None and world_size() == 1:
        count = torch.full((len(x),), x.shape[1], dtype=working, device=x.device)
        if x.shape[1]:
            x -= x.mean(1, keepdim=True)
            if x.dtype == torch.float32:
                x -= x.mean(1, keepdim=True)  # what the first mean lost to rounding
        return x.to(dtype), count
    x = x.to(working)
    if mask is None:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    keep = mask[..., None]
    x = torch.where(keep, x, 0.0)
    sums = torch.cat([mask.sum(1, keepdim=True).to(working), x.sum(1)], 1)
    sums = sum_over_ranks(sums)
    count = sums[:, 0]
    means = sums[:, 1:] / count.clamp(min=1)[:, None]
    return torch.where(keep, x - means[:, None], 0.0).to(dtype), count


class RunningMoments(nn.Module):
    r"""Joint moments of B sets of tasks, each measured on its own samples (Algorithm 1).

    .. math:: S \leftarrow m S + (1-m)\, \bar F^\top \bar F, \qquad S = 0 \text{ at the start}

    where F holds the features of all tasks of a set side by side; task i's block of it is the
    paper's :math:`S_{ii}` and the block of i and j its :math:`S_{ij}`.

    Args:
        sets (Sequence[tuple[int, ...]]): indices of the tasks of each set.
        dims (tuple[int, ...]): widths of a set's tasks, the same for every set; D is their sum.
        device (torch.device): where the moments are kept, in :func:`working_dtype`, or on a CPU as
            :meth:`keep_in` says.
        identity (bool): start from S = I, as Algorithm 1 is printed, instead of 0.
    """

    def __init__(
        self,
        sets: Sequence[tuple[int, ...]],
        dims: tuple[int, ...],
        device: torch.device,
        identity: bool = False,
    ) -> None:
        super().__init__()
        self.sets = tuple(sets)
        self.dims = tuple(dims)
        options = {"dtype": working_dtype(device), "device": device}
        moments = torch.zeros(len(sets), sum(dims), sum(dims), **options)
        if identity:
            moments.diagonal(dim1=-2, dim2=-1).fill_(1)
        self.register_buffer("moments", moments)
        self.register_buffer("weight", torch.zeros(len(sets), **options))
        self.register_buffer("squared_weight", torch.zeros(len(sets), **options))
        self.register_buffer("is_precise", torch.ones((), dtype=torch.bool, device=device))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=device))

    @property
    def _is_wide(self) -> bool:
        return sum(self.dims) >= WIDE

    @property
    def effective_sample_size(self) -> Tensor:
        """(B,): samples behind the moments, (sum of weights)^2 / sum of squared weights (Kish)."""
        return self.weight**2 / self.squared_weight.clamp(min=1e-30)

    def slot(self, index: int) -> slice:
        """Columns of a set's task with this position."""
        start = sum(self.dims[:index])
        return slice(start, start + self.dims[index])

    def product_dtype(self, features: torch.dtype) -> torch.dtype:
        """What (N, D) features are multiplied in: on a CPU wide float32 ones stay float32.

        As long as float32 will do (:meth:`exceeds_float32`, ``is_precise``), and not on several
        processes: the first is a question of a batch, and theirs differ.
        """
        device = self.moments.device
        if device.type == "cpu" and self._is_wide and world_size() == 1 and not self.is_precise:
            return torch.promote_types(features, torch.float32)
        return working_dtype(device)

    def squares(self, x: Tensor) -> np.ndarray | None:
        """(B, tasks of a set) sums of squares of wide (B, N, D) features on a CPU, else None."""
        if x.device.type != "cpu" or not self._is_wide:
            return None
        with np.errstate(all="ignore"):
            own = (x[..., self.slot(task)].numpy() for task in range(len(self.dims)))
            return np.stack([np.einsum("bnd,bnd->b", rows, rows) for rows in own], 1)

    def exceeds_float32(self, x: Tensor, squares: np.ndarray) -> bool:
        """Whether (B, N, D) features on a CPU are more than float32 can hold.

        Much of a task's variance is in one direction, and would drown what else there is, in
        products as in moments; or its squares are too small.
        """
        with np.errstate(all="ignore"):
            for rows, totals in zip(x.numpy(), squares, strict=True):
                for index, total in enumerate(totals):
                    if total < SMALLEST:
                        return True
                    own, unit = rows[:, self.slot(index)], 1 / np.sqrt(total)
                    # two power steps: all it takes where one direction dominates; from all rows,
                    # for those that do not count are 0
                    variate = np.arange(1, len(own) + 1, dtype=own.dtype)
                    for _ in range(2):
                        direction = unit * times(variate, own)
                        variate = unit * times(direction, own.T)
                    if variate @ variate > DOMINANT * (direction @ direction):
                        return True
        return False

    def keep_in(self, dtype: torch.dtype) -> None:
        """On a CPU wide moments are kept in what is multiplied: time goes into their memory."""
        if self._is_wide and self.moments.device.type == "cpu" and self.moments.dtype != dtype:
            self.moments = self.moments.to(dtype)

    def products(
        self, x: Tensor, squares: np.ndarray | None
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """What a batch adds to the moments, and whether it may.

        Args:
            x (Tensor): (B, N, D) centred features.
            squares (ndarray, optional): as of :meth:`squares`.

        Returns:
            The products, None where :meth:`update` takes them in place; and (B, tasks of a set)
            bool, whose features (or their squares) are not finite, None where a CPU saw that all
            are.
        """
        if squares is not None and world_size() == 1:
            wrong = ~np.isfinite(squares)
            return None, torch.from_numpy(wrong) if wrong.any() else None
        blocks = self._products(x)
        if x.device.type == "cpu":
            totals = (float(block.diagonal(dim1=-2, dim2=-1).sum()) for block in blocks)
            if all(map(math.isfinite, totals)):
                return blocks, None
        return blocks, torch.stack([~v.isfinite().all(-1) for v in self._variances(blocks)], 1)

    def update(
        self,
        x: Tensor,
        blocks: list[Tensor] | None,
        count: Tensor,
        momentum: float,
        clean: Tensor | None,
    ) -> Tensor:
        """Take in a batch, unless it has fewer than two samples or is not finite.

        Args:
            x (Tensor): (B, N, D) centred features.
            blocks (list[Tensor], optional): of :meth:`products`.
            count (Tensor): (B,) samples on all ranks.
            momentum (float): m.
            clean (Tensor, optional): 0-d bool, whether the features are finite; None where they
                are, on a CPU.

        Returns:
            w (B,), 1 - m, or 0 where the batch was left out.
        """
        gain = 1 - momentum
        if clean is None and count.numpy().max(initial=0) >= 2:
            self.keep_in(x.dtype)
        if clean is None and count.numpy().min(initial=2) >= 2:
            self.weight.mul_(momentum).add_(count, alpha=gain)
            self.squared_weight.mul_(momentum**2).add_(count, alpha=gain**2)
            if blocks is None:
                self._add_products(x, momentum)
            else:
                for state, block in self._rows(blocks):
                    torch.add(block.mul_(gain), state, alpha=momentum, out=state)
            self._ask_for_precision(momentum)
            return torch.full_like(count, gain)
        blocks = self._products(x) if blocks is None else blocks
        counts = count >= 2 if clean is None else (count >= 2) & clean
        weight = momentum * self.weight + gain * count
        squared = momentum**2 * self.squared_weight + gain**2 * count
        self.weight.copy_(torch.where(counts, weight, self.weight))
        self.squared_weight.copy_(torch.where(counts, squared, self.squared_weight))
        for state, block in self._rows(blocks):
            updated = momentum * state + gain * block
            state.copy_(torch.where(counts[:, None, None], updated, state))
        if clean is None and bool(counts.any()):
            self._ask_for_precision(momentum)
        return counts.to(count.dtype) * gain

    def _ask_for_precision(self, momentum: float) -> None:
        """On a CPU, every so often, whether wide features are too dependent for float32.

        With the rounding of float32 moments, directions without variance would get a share in the
        canonical vectors, as large as the shrinkage is small. float64 is used up to the first time.
        """
        if not self._is_wide or self.moments.device.type != "cpu" or world_size() > 1:
            return
        self.updates += 1
        if int(self.updates) % max(1, min(25, int(0.25 / (1 - momentum)))) == 0:
            blocks = (
                self.moments[:, self.slot(task), self.slot(task)] for task in range(len(self.dims))
            )
            self.is_precise.fill_(not all(map(_independent, blocks)))

    def _add_products(self, x: Tensor, momentum: float) -> None:
        """The update of wide moments in one pass over them."""
        for state, rows in zip(self.moments, x, strict=True):
            for index in range(len(self.dims)):
                own = self.slot(index)
                state[own, own.start :].addmm_(
                    rows[:, own].mT, rows[:, own.start :], beta=momentum, alpha=1 - momentum
                )

    def _rows(self, blocks: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The part of the moments that each block of products belongs to."""
        start = 0
        for block in blocks:
            yield self.moments[:, start : start + block.shape[1], start:], block
            start += block.shape[1]

    def _products(self, x: Tensor) -> list[Tensor]:
        """Rows of x'x: all of them, or, of wide features, each task's from its own columns on."""
        if not self._is_wide:
            return [sum_over_ranks(x.mT @ x)]
        blocks = [
            x[..., self.slot(i)].mT @ x[..., self.slot(i).start :] for i in range(len(self.dims))
        ]
        if world_size() == 1:
            return blocks
        sizes = [block.numel() for block in blocks]
        summed = sum_over_ranks(torch.cat([block.flatten() for block in blocks])).split(sizes)
        return [s.view(block.shape) for s, block in zip(summed, blocks, strict=True)]

    def _variances(self, blocks: list[Tensor]) -> tuple[Tensor, ...]:
        """(B, d) sums of squares of each task; where they are finite, so are all products."""
        diagonals = [block.diagonal(dim1=-2, dim2=-1) for block in blocks]
        return diagonals if len(diagonals) == len(self.dims) else diagonals[0].split(self.dims, -1)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # not in what earlier versions wrote
        state_dict.setdefault(prefix + "is_precise", torch.ones_like(self.is_precise))
        state_dict.setdefault(prefix + "updates", torch.zeros_like(self.updates))
        saved = state_dict.get(prefix + "moments")
        if saved is not None and saved.dtype == torch.float32:
            self.keep_in(saved.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _independent(s: Tensor) -> bool:
    """Whether no feature is nearly a combination of others, by moments (B, d, d)."""
    scaled = normalised(s.float(), 1e-5)[0]
    lower, wrong = torch.linalg.cholesky_ex(scaled)
    inverse = torch.cholesky_inverse(lower)
    over = inverse.diagonal(dim1=-2, dim2=-1) * scaled.diagonal(dim1=-2, dim2=-1)
    return not wrong.any() and bool((over <= 1 / INDEPENDENT).all())
