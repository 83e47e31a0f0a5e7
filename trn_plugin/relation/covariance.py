"""Running covariances of several tasks' features, and which of their blocks are a pair's."""

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
    """P pairs of tasks of widths d1 and d2, with ``indices`` among the pairs of the layer.

    Each has a set of its own and the same columns, or all have columns of their own in one set.
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


@dataclass
class Batch:
    """Features of B sets of tasks, and what they add to the covariances."""

    features: Tensor  # (B, N, D) as given
    x: Tensor  # (B, N, D) centred; rows that do not count are 0
    count: int | Tensor  # samples on all processes; (B,) where labels may be missing
    squares: Tensor  # (B, D) of the columns, finite if and only if all products are
    products: Tensor | None = None  # (B, D, D) x'x; None where the update computes them


def centre(x: Tensor, mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, int | Tensor]:
    """Subtract the mean over the samples of ``mask`` on all processes; other rows become 0.

    Of features (B, N, D) and a mask (B, N), or None where all count; with the number of samples,
    (B,) where there is a mask or several processes.
    """
    if mask is None and world_size() == 1:
        x = x.to(dtype)
        x = x - x.mean(1, keepdim=True)
        if dtype == torch.float32:
            x -= x.mean(1, keepdim=True)  # what the first mean lost to rounding
        return x, x.shape[1]
    x = x.to(precision.working_dtype(x.device))
    keep = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    keep = keep[..., None]
    x = torch.where(keep, x, 0.0)
    sums = sum_over_ranks(torch.cat([keep.sum(1, dtype=x.dtype), x.sum(1)], 1))
    means = sums[:, 1:] / sums[:, :1].clamp(min=1)
    return torch.where(keep, x - means[:, None], 0.0).to(dtype), sums[:, 0]


class RunningCovariance(nn.Module):
    r"""Joint covariances S of B sets of tasks, each of its own samples.

    The block of tasks i and j is the paper's :math:`S_{ij}`, not divided by the sum of the samples'
    weights, on which no similarity depends. Wide ones on the host are updated in place, and only
    in the blocks of i <= j. All sets have tasks of the same widths.
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
        # sums of the samples' weights, and of their squares
        self.register_buffer("weights", torch.zeros(b).double())
        self.register_buffer("squared_weights", torch.zeros(b).double())
        self.register_buffer("batches", torch.zeros(b, dtype=torch.int64))
        # whether float32 is not enough; a number, since averages of models subtract buffers
        self.register_buffer("is_precise", torch.ones((), dtype=torch.int64))
        places = torch.arange(sum(widths)).split(tuple(widths))
        places = torch.cat([places[task] for tasks in self.sets for task in tasks])
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("tasks", torch.tensor(self.sets), persistent=False)
        self._is_all = self.sets == (tuple(range(len(widths))),)

    @property
    def on_host(self) -> bool:
        """See ``precision``."""
        return precision.on_host(self.covariance.device)

    @property
    def effective_sample_size(self) -> Tensor:
        """(B,) samples behind the covariances, (sum of weights)^2 / sum of squares (Kish)."""
        return self.weights**2 / self.squared_weights.clamp(min=1e-30)

    def batch(self, joint: Tensor, masks: Tensor | None) -> Batch:
        """Centre features (N, all) of all tasks, of the samples that have labels by (N, T)."""
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
        """Take in a finite batch of two samples or more; (B,) bool, which sets did, or None."""
        taken = None if finite is None else finite.expand(len(self.sets))
        if torch.is_tensor(batch.count) or batch.count < 2:
            many = torch.ge(batch.count + torch.zeros_like(self.weights), 2)
            taken = many if taken is None else taken & many
        if self.on_host and taken is not None:
            if not taken.any():
                return taken
            taken = None if taken.all() else taken

        def blend(s: Tensor, new: Tensor | float, gain: float) -> None:
            if taken is not None:  # what leaves the others as they are
                new = torch.where(taken.view(-1, *[1] * (s.ndim - 1)), new, s)
            s.lerp_(new if torch.is_tensor(new) else torch.full_like(s, new), gain)

        blend(self.weights, batch.count, 1 - m)
        blend(self.squared_weights, batch.count * ((1 - m) / (1 + m)), 1 - m**2)
        self.batches += 1 if taken is None else taken
        self.covariance = self.covariance.to(batch.x.dtype)
        if batch.products is None:
            self._update_in_place(batch.x, m, taken)
        else:
            blend(self.covariance, batch.products, 1 - m)
        return taken

    def _update_in_place(self, x: Tensor, m: float, taken: Tensor | None) -> None:
        """One pass over wide covariances; from time to time, whether float32 holds them."""
        for place, (s, rows) in enumerate(zip(self.covariance, x, strict=True)):
            if taken is None or taken[place]:
                for own in self.columns:
                    right = slice(own.start, None)
                    s[own, right].addmm_(rows[:, own].mT, rows[:, right], beta=m, alpha=1 - m)
        counts = self.batches if taken is None else self.batches[taken]
        if any(precision.checks_due(count, m) for count in counts.tolist()):
            blocks = (self.covariance[:, own, own] for own in self.columns)
            self.is_precise.fill_(not all(map(precision.has_independent_features, blocks)))

    def _apply(self, fn, recurse=True):
        """Follow a move to another device; ``half()`` and its like do not reach covariances."""
        old = self.covariance.device
        device = fn(torch.empty(0, device=old)).device
        if device == old:
            return self
        dtype = precision.working_dtype(device)
        return super()._apply(
            lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype), recurse
        )

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        """Always in the working dtype, so that averages of models see one dtype."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        name = prefix + "covariance"
        destination[name] = destination[name].to(precision.working_dtype(self.covariance.device))

    def _load_from_state_dict(self, state_dict, *args) -> None:
        self.covariance = self.covariance.to(precision.working_dtype(self.covariance.device))
        super()._load_from_state_dict(state_dict, *args)
        single = self.covariance.float()
        if precision.is_in_place(single) and torch.equal(single.double(), self.covariance):
            self.covariance = single  # as it was before it was saved
