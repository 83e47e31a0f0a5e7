"""Running covariances of the features of several tasks, and their blocks for each pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from trn_plugin.ranks import sum_over_ranks, world_size
from trn_plugin.relation import precision
from trn_plugin.relation.solvers.davidson import DavidsonState

__all__ = ["Batch", "Pairs", "RunningCovariance", "centre"]


class Pairs(nn.Module):
    """P pairs of tasks of widths d1 and d2; ``indices`` are their places in the layer's ``pairs``.

    There are two layouts. Each pair has a set of tasks of its own, and the columns are the same in
    all sets; or all pairs are in one set, and each has columns of its own.
    """

    def __init__(self, indices: list[int], sets: slice, columns: list[tuple[slice, slice]]) -> None:
        super().__init__()
        self.indices, self.sets = indices, sets
        self.state: DavidsonState | None = None  # wide pairs only
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
        """The pairs' features (P, N, d1) and (P, N, d2) from those of the sets (B, N, D)."""
        first, second = x[self.sets][..., self.rows], x[self.sets][..., self.columns]
        if self.is_indexed:
            return first[0].transpose(0, 1), second[0].transpose(0, 1)
        return first, second

    def scatter(self, like: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """The adjoint of :meth:`take`: (B, N, D), 0 in columns of no pair."""
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
        """Values (P,) of the pairs from values (B,) of their sets."""
        return values[self.sets].expand(len(self.indices))


def group_pairs(
    sets: Sequence[tuple[int, ...]], columns: list[slice], pairs: Sequence[tuple[int, int]]
) -> list[Pairs]:
    """Group the pairs in these sets of tasks by widths; a pair of wide tasks is its own group."""
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


@dataclass
class Batch:
    """Features of B sets of tasks, and their covariances."""

    features: Tensor  # (B, N, D) as given
    x: Tensor  # (B, N, D) centred; masked rows are 0
    count: int | Tensor  # samples on all processes; (B,) where labels may be missing
    squares: Tensor  # (B, D) sums of squares of the columns; finite if and only if x'x is
    products: Tensor | None = None  # (B, D, D) x'x; None if the update computes it in place


def centre(x: Tensor, mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, int | Tensor]:
    """Subtract the mean of features (B, N, D) over the samples of ``mask`` on all processes.

    ``mask`` is (B, N) bool; None counts all samples. Returns the features, 0 in masked rows, and
    the number of samples: (B,) with a mask or in several processes.
    """
    if mask is None and world_size() == 1:
        x = x.to(dtype)
        x = x - x.mean(1, keepdim=True)
        if dtype == torch.float32:
            x -= x.mean(1, keepdim=True)  # second pass: removes the rounding error of the first
        return x, x.shape[1]
    x = x.to(precision.working_dtype(x.device))
    keep = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    keep = keep[..., None]
    x = torch.where(keep, x, 0.0)
    sums = sum_over_ranks(torch.cat([keep.sum(1, dtype=x.dtype), x.sum(1)], 1))
    means = sums[:, 1:] / sums[:, :1].clamp(min=1)
    return torch.where(keep, x - means[:, None], 0.0).to(dtype), sums[:, 0]


class RunningCovariance(nn.Module):
    r"""Joint covariances S of B sets of tasks of equal widths, each set with its own samples.

    The block of tasks i and j is the paper's :math:`S_{ij}`. It is a weighted sum, not divided by
    the sum of weights: no similarity depends on the scale. Wide covariances on the host are
    updated in place, in the blocks i <= j only.
    """

    def __init__(self, sets, widths: Sequence[int], pairs, identity: bool = False) -> None:
        super().__init__()
        self.sets = tuple(sets)
        self.dims = tuple(widths[task] for task in sets[0])
        ends = accumulate(self.dims)
        self.columns = [slice(end - d, end) for end, d in zip(ends, self.dims, strict=True)]
        self.pairs = nn.ModuleList(group_pairs(self.sets, self.columns, pairs))
        self.owners = [task for tasks in sets for task in tasks for _ in range(widths[task])]
        b, d = len(sets), sum(self.dims)
        start = torch.eye(d).double() if identity else torch.zeros(d, d).double()
        self.register_buffer("covariance", start.repeat(b, 1, 1))
        self.register_buffer("weights", torch.zeros(b).double())
        self.register_buffer("squared_weights", torch.zeros(b).double())
        self.register_buffer("batches", torch.zeros(b, dtype=torch.int64))
        # whether float32 is too imprecise; not bool, as averaged models subtract buffers
        self.register_buffer("is_precise", torch.ones((), dtype=torch.int64))
        places = torch.arange(sum(widths)).split(tuple(widths))
        places = torch.cat([places[task] for tasks in self.sets for task in tasks])
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("tasks", torch.tensor(self.sets), persistent=False)
        self._is_all = self.sets == (tuple(range(len(widths))),)

    @property
    def on_host(self) -> bool:
        """Whether the covariances are on the CPU."""
        return precision.on_host(self.covariance.device)

    @property
    def effective_sample_size(self) -> Tensor:
        """(B,) Kish's effective sample size, (sum of weights)^2 / (sum of squared weights)."""
        return self.weights**2 / self.squared_weights.clamp(min=1e-30)

    def batch(self, joint: Tensor, masks: Tensor | None) -> Batch:
        """Centre features (N, sum of widths) over the samples labelled by ``masks`` (N, T)."""
        features = joint[None]
        if not self._is_all:
            own = joint.index_select(1, self.places)
            features = own.unflatten(1, (len(self.sets), -1)).transpose(0, 1)
        with torch.no_grad():
            mask = None if masks is None else masks[:, self.tasks].all(2).T
            dtype = precision.product_dtype(joint.dtype, self.covariance, self.is_precise)
            x, count = centre(features, mask, dtype)
            if not precision.is_in_place(self.covariance):
                products = sum_over_ranks(torch.bmm(x.mT, x))
                squares = products.diagonal(dim1=-2, dim2=-1)
                return Batch(features, x, count, squares, products)
            squares = x.square().sum(1)
            if dtype == torch.float32 and precision.exceeds_float32(x, squares, self.columns):
                x, count = centre(features, mask, torch.float64)
                squares = x.square().sum(1)
            return Batch(features, x, count, squares)

    def update(self, batch: Batch, m: float, finite: Tensor | None) -> Tensor | None:
        """Update with a finite batch of at least two samples.

        Returns (B,) bool, which sets were updated; None for all.
        """
        updated = None if finite is None else finite.expand(len(self.sets))
        if torch.is_tensor(batch.count) or batch.count < 2:
            many = torch.ge(batch.count + torch.zeros_like(self.weights), 2)
            updated = many if updated is None else updated & many
        if self.on_host and updated is not None:
            if not updated.any():
                return updated
            updated = None if updated.all() else updated

        def blend(s: Tensor, new: Tensor | float, gain: float) -> None:
            if updated is not None:
                new = torch.where(updated.view(-1, *[1] * (s.ndim - 1)), new, s)
            s.lerp_(new if torch.is_tensor(new) else torch.full_like(s, new), gain)

        blend(self.weights, batch.count, 1 - m)
        blend(self.squared_weights, batch.count * ((1 - m) / (1 + m)), 1 - m**2)
        self.batches += 1 if updated is None else updated
        self.covariance = self.covariance.to(batch.x.dtype)
        if batch.products is None:
            self._update_in_place(batch.x, m, updated)
        else:
            blend(self.covariance, batch.products, 1 - m)
        return updated

    def _update_in_place(self, x: Tensor, m: float, updated: Tensor | None) -> None:
        """Update wide covariances in one pass; periodically check whether float32 is enough."""
        for place, (s, rows) in enumerate(zip(self.covariance, x, strict=True)):
            if updated is None or updated[place]:
                for own in self.columns:
                    right = slice(own.start, None)
                    s[own, right].addmm_(rows[:, own].mT, rows[:, right], beta=m, alpha=1 - m)
        counts = self.batches if updated is None else self.batches[updated]
        if any(precision.checks_due(count, m) for count in counts.tolist()):
            blocks = (self.covariance[:, own, own] for own in self.columns)
            self.is_precise.fill_(not all(map(precision.has_independent_features, blocks)))

    def _apply(self, fn, recurse=True):
        """Follow moves to another device; ignore casts such as ``half()``."""
        old = self.covariance.device
        device = fn(torch.empty(0, device=old)).device
        if device == old:
            return self
        dtype = precision.working_dtype(device)
        return super()._apply(
            lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype), recurse
        )

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        """Save in the working dtype, so that averaged models see one dtype."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        name = prefix + "covariance"
        destination[name] = destination[name].to(precision.working_dtype(self.covariance.device))

    def _load_from_state_dict(self, state_dict, *args) -> None:
        self.covariance = self.covariance.to(precision.working_dtype(self.covariance.device))
        super()._load_from_state_dict(state_dict, *args)
        single = self.covariance.float()
        if precision.is_in_place(single) and torch.equal(single.double(), self.covariance):
            self.covariance = single  # the dtype before saving
