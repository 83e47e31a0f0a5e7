"""Running covariances of several tasks' features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trn_plugin.relation import precision
from trn_plugin.relation._ranks import sum_over_ranks, world_size

__all__ = ["CentredBatch", "RunningCovariance", "centre"]


@dataclass
class CentredBatch:
    """Features of a batch, and what they add to the covariances.

    Attributes:
        x (Tensor): (B, N, D) centred features; rows that do not count are 0.
        count (int | Tensor): samples on all processes; (B,) where labels may be missing.
        products (list[Tensor], optional): rows of x'x; None where the update computes them.
        squares (Tensor, optional): (B, T) sums of squares, finite if and only if all products
            are; None where the host has seen that they are.
    """

    x: Tensor
    count: int | Tensor
    products: list[Tensor] | None = None
    squares: Tensor | None = None


def centre(x: Tensor, mask: Tensor | None, dtype: torch.dtype) -> CentredBatch:
    """Subtract the mean over the samples of ``mask`` on all processes; other rows become 0.

    Args:
        x (Tensor): (B, N, D) features of B sets of tasks, which may be overwritten.
        mask (Tensor, optional): (B, N) bool, which samples count for each set; None for all.
        dtype (torch.dtype): of the centred features.
    """
    if mask is None and world_size() == 1:
        if x.shape[1]:
            x -= x.mean(1, keepdim=True)
            if x.dtype == torch.float32:
                x -= x.mean(1, keepdim=True)  # what the first mean lost to rounding
        return CentredBatch(x.to(dtype), x.shape[1])
    x = x.to(precision.working_dtype(x.device))
    if mask is None:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    keep = mask[..., None]
    x = torch.where(keep, x, 0.0)
    sums = sum_over_ranks(torch.cat([keep.sum(1, dtype=x.dtype), x.sum(1)], 1))
    means = sums[:, 1:] / sums[:, :1].clamp(min=1)
    return CentredBatch(torch.where(keep, x - means[:, None], 0.0).to(dtype), sums[:, 0])


class RunningCovariance(nn.Module):
    r"""Joint covariances of B sets of tasks, each of its own samples.

    .. math:: S \leftarrow m S + (1-m)\, \bar F^\top \bar F

    where F holds the features of all tasks of a set side by side: task i's block is the paper's
    :math:`S_{ii}`, the block of i and j its :math:`S_{ij}`. They are second moments that weigh
    the samples seen so far, not divided by the sum of weights, on which no similarity depends.

    Args:
        sets (Sequence[tuple[int, ...]]): indices of the tasks of each set.
        all_dims (Sequence[int]): widths of all tasks; those of a set, in its order, are the same
            for every set, and D is their sum.
        device (torch.device): of the covariances.
        identity (bool): start from S = I, as Algorithm 1 is printed, instead of 0.
    """

    OLD_FORM = ("moments", "weight", "squared_weight", "updates")

    def __init__(
        self,
        sets: Sequence[tuple[int, ...]],
        all_dims: Sequence[int],
        device: torch.device,
        identity: bool = False,
    ) -> None:
        super().__init__()
        self.sets = tuple(sets)
        self.dims = dims = tuple(all_dims[task] for task in sets[0])
        self._identity = identity
        options = {"dtype": precision.working_dtype(device), "device": device}
        self.register_buffer("covariance", torch.zeros(len(sets), sum(dims), sum(dims), **options))
        # sums of the samples' weights, and of their squares
        self.register_buffer("weights", torch.zeros(len(sets), **options))
        self.register_buffer("squared_weights", torch.zeros(len(sets), **options))
        self.register_buffer("batches", torch.zeros(len(sets), dtype=torch.int64, device=device))
        # numbers, since averages of models subtract buffers: whether float32 is not enough for
        # the features, and whether the covariances are stored in it
        self.register_buffer("is_precise", torch.ones((), dtype=torch.int64, device=device))
        self.register_buffer("is_single", torch.zeros((), dtype=torch.int64, device=device))
        owner = [task for task, width in enumerate(dims) for _ in range(width)]
        self._owner = torch.tensor(owner, device=device)
        self.tasks = torch.tensor(self.sets, device=device)  # (B, T)
        self._all_width = sum(all_dims)
        self._is_all = self.sets == (tuple(range(len(all_dims))),)
        places = torch.arange(self._all_width).split(tuple(all_dims))
        places = [torch.cat([places[task] for task in tasks]) for tasks in self.sets]
        self._places = torch.stack(places).to(device)
        self.restart()

    @property
    def on_host(self) -> bool:
        """Whether values may be read."""
        return precision.on_host(self.covariance.device)

    @property
    def effective_sample_size(self) -> Tensor:
        """(B,) samples behind the covariances, (sum of weights)^2 / sum of squares (Kish)."""
        return self.weights**2 / self.squared_weights.clamp(min=1e-30)

    def restart(self) -> None:
        """Forget all batches."""
        for buffer in (self.covariance, self.weights, self.squared_weights, self.batches):
            buffer.zero_()
        if self._identity:
            self.covariance.diagonal(dim1=-2, dim2=-1).fill_(1)
        self.is_precise.fill_(1)

    def take_over(self, other: RunningCovariance) -> None:
        """Go on from the covariances of another device."""
        for own, buffer in zip(self.buffers(), other.buffers(), strict=True):
            own.copy_(buffer)
        self.is_single.fill_(self.covariance.dtype == torch.float32)

    def gather(self, joint: Tensor) -> Tensor:
        """Features of the sets (B, N, D) from those of all tasks side by side, (N, all)."""
        return joint[None] if self._is_all else joint[:, self._places].transpose(0, 1)

    def scatter(self, in_sets: Tensor, total: Tensor | None) -> Tensor:
        """(N, all), the sum of ``total`` and of each task's part of (B, N, D)."""
        if self._is_all:
            return in_sets[0]
        if total is None:
            total = in_sets.new_zeros(in_sets.shape[1], self._all_width)
        values = in_sets.transpose(0, 1).flatten(1)
        return total.index_add_(1, self._places.flatten(), values.to(total.dtype))

    def columns(self, position: int) -> slice:
        """Columns of a set's task."""
        start = sum(self.dims[:position])
        return slice(start, start + self.dims[position])

    def product_dtype(self, features: torch.dtype) -> torch.dtype:
        """Dtype in which products of these features are computed."""
        is_precise = not self.on_host or bool(self.is_precise)
        return precision.product_dtype(features, self.covariance, is_precise)

    def exceeds_float32(self, batch: CentredBatch) -> bool:
        """Whether a float32 batch on the host needs float64; notes its sums of squares."""
        if self.skips_lower_blocks:
            batch.squares = precision.sums_of_squares(batch.x, self._all_columns)
            if batch.x.dtype == torch.float32:
                return precision.exceeds_float32(batch.x, batch.squares, self._all_columns)
        return False

    def prepare(self, batch: CentredBatch) -> None:
        """Compute a batch's products, where :meth:`update` does not, and its sums of squares."""
        if batch.squares is None or world_size() > 1:
            batch.products = self._products(batch.x)
            if self.on_host:
                traces = [float(p.diagonal(dim1=-2, dim2=-1).sum()) for p in batch.products]
                if all(map(math.isfinite, traces)):
                    batch.squares = None
                    return
            batch.squares = self._squares(batch.products)
        elif math.isfinite(float(batch.squares.sum())):
            batch.squares = None

    def update(self, batch: CentredBatch, momentum: float, finite: Tensor | None) -> Tensor | None:
        """Take in a batch, unless it has fewer than two samples or is not finite.

        Args:
            batch (CentredBatch): prepared.
            momentum (float): m.
            finite (Tensor, optional): 0-d bool, whether all tasks' features are; None where the
                host has seen that they are.

        Returns:
            (B,) bool, which sets took it in; None for all.
        """
        taken = self._taken(batch.count, finite)
        if self.on_host and (taken is None or bool(taken.any())):
            self._convert(batch.x.dtype)
        count, gain = batch.count, 1 - momentum
        if taken is None:
            self.weights.mul_(momentum).add_(count, alpha=gain)
            self.squared_weights.mul_(momentum**2).add_(count, alpha=gain**2)
            self.batches += 1
            if batch.products is None:
                self._add_products(batch.x, momentum)
            else:
                for s, c in self._blocks(batch.products):
                    s.lerp_(c, gain)
        else:
            # what a set does not take in is replaced by what leaves it unchanged
            self.weights.lerp_(torch.where(taken, count, self.weights), gain)
            share = gain / (1 + momentum)
            count = torch.where(taken, count * share, self.squared_weights)
            self.squared_weights.lerp_(count, 1 - momentum**2)
            self.batches += taken
            products = batch.products or self._products(batch.x)
            for s, c in self._blocks(products):
                s.lerp_(torch.where(taken[:, None, None], c, s).to(s.dtype), gain)
        if self.on_host:
            self._check_precision(momentum, taken)
        return taken

    def _taken(self, count: int | Tensor, finite: Tensor | None) -> Tensor | None:
        if isinstance(count, int):
            if count >= 2:
                return None if finite is None else finite.expand(len(self.sets))
            return torch.zeros_like(self.weights, dtype=torch.bool)
        taken = count >= 2
        if finite is not None:
            return taken & finite
        return None if self.on_host and bool(taken.all()) else taken

    @property
    def skips_lower_blocks(self) -> bool:
        """Whether blocks that follow by symmetry are left out: for wide tasks, on the host."""
        return self.on_host and self.covariance.shape[-1] >= precision.WIDE

    @property
    def _all_columns(self) -> list[slice]:
        return [self.columns(position) for position in range(len(self.dims))]

    def _convert(self, dtype: torch.dtype) -> None:
        """Store wide covariances in the dtype of the products, which halves memory traffic."""
        if self.skips_lower_blocks and self.covariance.dtype != dtype:
            self.covariance = self.covariance.to(dtype)
            self.is_single.fill_(dtype == torch.float32)

    def _check_precision(self, momentum: float, taken: Tensor | None) -> None:
        """From time to time, whether float32 holds wide features; float64 until the first time."""
        if not self.skips_lower_blocks or world_size() > 1:
            return
        counts = self.batches if taken is None else self.batches[taken]
        if any(precision.checks_due(count, momentum) for count in counts.tolist()):
            blocks = (self.covariance[:, own, own] for own in self._all_columns)
            self.is_precise.fill_(not all(map(precision.has_independent_features, blocks)))

    def _add_products(self, x: Tensor, momentum: float) -> None:
        """The update in one pass over wide covariances."""
        for s, rows in zip(self.covariance, x, strict=True):
            for own in self._all_columns:
                s[own, own.start :].addmm_(
                    rows[:, own].mT, rows[:, own.start :], beta=momentum, alpha=1 - momentum
                )

    def _products(self, x: Tensor) -> list[Tensor]:
        """Rows of x'x: all of them, or each task's from its own columns on."""
        if not self.skips_lower_blocks:
            return [sum_over_ranks(torch.bmm(x.mT, x))]
        blocks = [torch.bmm(x[..., own].mT, x[..., own.start :]) for own in self._all_columns]
        if world_size() == 1:
            return blocks
        sizes = [block.numel() for block in blocks]
        summed = sum_over_ranks(torch.cat([block.flatten() for block in blocks])).split(sizes)
        return [s.view(block.shape) for s, block in zip(summed, blocks, strict=True)]

    def _blocks(self, products: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The part of the covariances that each block of products belongs to."""
        start = 0
        for block in products:
            yield self.covariance[:, start : start + block.shape[1], start:], block
            start += block.shape[1]

    def _squares(self, products: list[Tensor]) -> Tensor:
        """(B, T) sums of squares of each task, from the diagonals of the products."""
        diagonals = [block.diagonal(dim1=-2, dim2=-1) for block in products]
        if len(diagonals) == len(self.dims):
            return torch.stack([diagonal.sum(-1) for diagonal in diagonals], 1)
        (diagonal,) = diagonals
        squares = diagonal.new_zeros(len(diagonal), len(self.dims))
        return squares.index_add_(1, self._owner, diagonal)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        if any(prefix + name in state_dict for name in self.OLD_FORM):
            warnings.warn(
                "running covariances of an earlier version hold its identity: they start anew",
                stacklevel=2,
            )
            for name in (*self.OLD_FORM, "is_precise"):
                state_dict.pop(prefix + name, None)
            self.restart()
            own = self.state_dict()
            state_dict |= {prefix + name: tensor.detach() for name, tensor in own.items()}
        single = state_dict.get(prefix + "is_single")
        if single is not None and single:
            self._convert(torch.float32)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.is_single.fill_(self.covariance.dtype == torch.float32)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        """Always in the working dtype, so that averages of models see one dtype."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        name = prefix + "covariance"
        destination[name] = destination[name].to(precision.working_dtype(self.covariance.device))
