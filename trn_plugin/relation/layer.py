"""The task relation layer (Algorithm 1), for two tasks or many, with its closed-form gradient."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trn_plugin.relation import precision
from trn_plugin.relation._features import check_features
from trn_plugin.relation._late import LateFlags
from trn_plugin.relation._ranks import world_size
from trn_plugin.relation.algorithm1 import update
from trn_plugin.relation.chance import corrected_similarity
from trn_plugin.relation.covariance import CentredBatch, RunningCovariance
from trn_plugin.relation.gradient import ClosedFormGradient, Solution
from trn_plugin.relation.pairs import JointPairs, SeparatePairs, group_pairs
from trn_plugin.relation.similarities import SIMILARITIES
from trn_plugin.relation.solvers import Batch
from trn_plugin.relation.solvers.davidson import Davidson, DavidsonState

__all__ = ["TaskRelationLayer", "measure_together"]

LARGEST = "largest"


class _Updated(NamedTuple):
    """Pairs whose covariances took in a batch."""

    layer: TaskRelationLayer
    group: RunningCovariance
    pairs: SeparatePairs | JointPairs
    batch: CentredBatch
    taken: Tensor | None


class TaskRelationLayer(nn.Module):
    r"""Task similarity of features that change as the network learns (Algorithm 1).

    Each training step centres the mini-batch, updates running covariances

    .. math:: S_{ij} \leftarrow m S_{ij} + (1-m)\, \bar F_i^\top \bar F_j,
              \qquad S = 0 \text{ at the start}

    and returns the largest canonical correlation tau of two tasks, or of every pair of several.
    tau does not depend on the scale of S, so that it is that of the samples seen so far, and the
    gradient below is that with weight (1 - m) / (1 - m^t) on normalised covariances.
    Algorithm 1 starts from :math:`S_{ii} = I`: tau of features that vary little is then far too
    small for hundreds of steps; ``start='identity'`` does so.
    Gradients flow through this batch's covariances only. With w = 1 - m, and a, b the canonical
    vectors of the updated covariances,

    .. math:: \partial\tau/\partial F_1 = w \left(\bar F_2 b a^\top - \tau \bar F_1 a a^\top
              - \tau \tfrac{\epsilon}{d_1} |a|^2 \bar F_1\right)

    and the same with 1 and 2 exchanged; the last term is that of the shrinkage. No decomposition
    is differentiated, so the gradient is finite where autograd through an SVD is not: with fewer
    samples than features, with dead features and one-hot labels. With few samples even unrelated
    features have a tau near 1: the gradient is 0 until the effective sample size is
    ``min_samples_per_dim`` (d1 + d2), see :attr:`arrived`.

    Several tasks share one joint covariance if they are measured on the same samples: each task
    is factorised once, pairs of equal shapes are solved together. On a CPU a pair of wide tasks is
    solved by Davidson iterations from the last step's solution (see :attr:`exact_rate`); on other
    devices every step is exact and none makes the host wait.

    In evaluation mode nothing is updated and tau of the covariances so far is returned. Under
    torch.distributed covariances are summed over ranks around the global mean, and the gradient
    is scaled by the world size, since DistributedDataParallel averages gradients.

    Args:
        momentum (float): m, in [0, 1).
        shrinkage (float): epsilon. :math:`S_{ii} + \epsilon\, \mathrm{tr}(S_{ii})/d_i\, I` is
            what is whitened; prevents a singular factor (one-hot labels, dead features).
        dims (Sequence[int], optional): width of each task; else taken from the first features.
        names (Sequence[str], optional): what the errors call the tasks; default f1, f2, ...
        pairs (Sequence[tuple[int, int]], optional): which tasks are measured; default all pairs.
        deletion (str): which samples count where labels are missing. 'pairwise': each pair uses
            the samples that have both labels, and keeps covariances of its own. 'listwise': all
            pairs use the samples that have all labels, and share one joint covariance, which
            is cheaper; the same where no label is missing.
        correct_chance (bool): return :func:`corrected_similarity` at the effective sample size,
            what is left of tau when the part that unrelated features would have is taken off; 0,
            with gradient 0, while there are too few samples for it.
        statistic (str): a name in ``SIMILARITIES``: 'largest' is tau, the paper's; 'pillai' is
            the mean of all squared canonical correlations; 'cka' is linear CKA.
        start (str): 'zero' or 'identity', the covariances before the first batch.
        min_samples_per_dim (float): effective samples for each of the d1 + d2 features before
            there is a gradient; 0 for a gradient from the first step.

    Raises:
        ValueError: an option out of range, shapes that do not fit, or features that are not
            finite: at once on a CPU, a step or two later on other devices, where reading a flag
            at once would stall the device. Such a batch never enters the covariances.

    Example:
        >>> import torch
        >>> layer = TaskRelationLayer(momentum=0.99)
        >>> layer(torch.randn(128, 10), torch.randn(128, 5)).shape
        torch.Size([])
        >>> TaskRelationLayer()(*torch.randn(4, 128, 3)).shape  # all pairs of four tasks
        torch.Size([6])
    """

    def __init__(
        self,
        momentum: float = 0.99,
        shrinkage: float = 1e-5,
        dims: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        pairs: Sequence[tuple[int, int]] | None = None,
        deletion: str = "pairwise",
        correct_chance: bool = False,
        statistic: str = LARGEST,
        start: str = "zero",
        min_samples_per_dim: float = 5.0,
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
        if not 1e-9 <= shrinkage <= 1:
            raise ValueError(f"shrinkage: expected a number in [1e-9, 1], got {shrinkage}")
        if deletion not in ("pairwise", "listwise"):
            raise ValueError(f"deletion: expected 'pairwise' or 'listwise', got {deletion!r}")
        if statistic not in SIMILARITIES:
            raise ValueError(f"statistic: expected one of {list(SIMILARITIES)}, got {statistic!r}")
        if correct_chance and statistic != LARGEST:
            raise ValueError(
                "correct_chance: the law of chance is that of the largest canonical correlation, "
                f"not of statistic {statistic!r}"
            )
        if start not in ("zero", "identity"):
            raise ValueError(f"start: expected 'zero' or 'identity', got {start!r}")
        if not min_samples_per_dim >= 0:
            raise ValueError(
                f"min_samples_per_dim: expected a number >= 0, got {min_samples_per_dim}"
            )
        self.statistic = statistic
        self.start = start
        self.momentum = momentum
        self.shrinkage = shrinkage
        self.deletion = deletion
        self.correct_chance = correct_chance
        self.min_samples_per_dim = min_samples_per_dim
        self._given_names = None if names is None else tuple(names)
        self._given_pairs = None if pairs is None else tuple(map(tuple, pairs))
        self.dims: tuple[int, ...] | None = None
        self.pairs: tuple[tuple[int, int], ...] = ()
        self.groups = nn.ModuleList()
        self._pairs: list[list[SeparatePairs | JointPairs]] = []  # of each group
        self._solver = Davidson()
        self._states: dict[int, DavidsonState] = {}  # of wide pairs, by their place
        self.register_buffer("widths", None)
        self.register_buffer("steps", None)
        self._flags = LateFlags()
        if dims is not None:
            self._build(dims, torch.device("cpu"))

    @property
    def effective_sample_size(self) -> Tensor:
        """Samples behind the covariances, of the shape of tau.

        (sum of weights)^2 / sum of squared weights; tends to batch (1+m)/(1-m) with a constant
        batch size (Kish's formula). 0 before the first update.
        """
        if self.dims is None:
            return torch.zeros(())
        return self._by_pair(
            [p.of_sets(group.effective_sample_size) for group, p in self._pair_groups()]
        )

    @property
    def batches(self) -> Tensor:
        """Batches taken in, of the shape of tau."""
        if self.dims is None:
            return torch.zeros((), dtype=torch.int64)
        return self._by_pair([p.of_sets(group.batches) for group, p in self._pair_groups()])

    @property
    def needed_samples(self) -> Tensor:
        """(P,) effective sample sizes before tau has a gradient."""
        return self.min_samples_per_dim * self._pair_dims.sum(1)

    @property
    def arrived(self) -> Tensor:
        """Whether enough samples are behind the covariances, bool, of the shape of tau."""
        if self.dims is None:
            return torch.zeros((), dtype=torch.bool)
        arrived = self._by_pair([self._arrived(group, p) for group, p in self._pair_groups()])
        return arrived & (self.batches > 0)

    @property
    def pair_dims(self) -> Tensor:
        """(P, 2) widths of the two tasks of each pair."""
        return self._pair_dims

    @property
    def exact_rate(self) -> float | None:
        """Share of the steps of wide pairs on a CPU that were solved exactly; None without any."""
        if not self._states:
            return None
        solved, exact = self.steps.tolist()
        return exact / max(solved, 1)

    @torch.no_grad()
    def similarity(self) -> Tensor:
        """tau of the covariances, 0-d for two tasks, else (P,); 0 before the first update."""
        if self.dims is None:
            return torch.zeros(())
        taus = []
        for group, pairs in zip(self.groups, self._pairs, strict=True):
            options = group, SIMILARITIES[self.statistic], self.shrinkage, {}
            taus += [p.solve(*options)[0] for p in pairs]
        return self._corrected(self._by_pair(taus))

    @torch.compiler.disable
    def forward(
        self, *features: Tensor, mask: Tensor | Sequence[Tensor | None] | None = None
    ) -> Tensor:
        """Update the covariances (training mode) and return tau.

        Args:
            *features (Tensor): (N, d_t) of each task, of the same samples.
            mask (Tensor or Sequence[Tensor | None], optional): (N,) bool, the samples that count,
                or one such mask for each task; None where all count, which saves time. With fewer
                than two samples on all ranks a pair's covariances stay as they are and its
                gradient is 0.

        Returns:
            Tensor: tau in [0, 1], float32 at least, on the features' device: 0-d for two tasks,
            else (P,), in the order of ``pairs``.
        """
        return measure_together([self], [features], [mask])[0]

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, shrinkage={self.shrinkage}, dims={self.dims}"

    def name_of(self, task: int) -> str:
        """What the errors call a task."""
        return f"f{task + 1}" if self._given_names is None else self._given_names[task]

    def get_extra_state(self) -> Tensor:
        """Solver states of wide pairs, as (n,) uint8; n depends on the widths alone."""
        states = [state.to_bytes() for state in self._states.values()]
        return torch.cat(states) if states else torch.zeros(0, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the solver states of a layer of the same widths; others are ignored."""
        sizes = [len(own.to_bytes()) for own in self._states.values()]
        if state.dtype == torch.uint8 and sum(sizes) == state.numel():
            for own, values in zip(self._states.values(), state.split(sizes), strict=True):
                own.from_bytes(values)
        else:
            self.reset_solvers()

    def reset_solvers(self) -> None:
        """Solve the next step exactly."""
        for state in self._states.values():
            state.reset()

    def _update(self, features: Sequence[Tensor], mask) -> list[_Updated]:
        """Update the covariances."""
        masks = self._masks(mask, features)
        for squares in self._flags.take():
            self._refuse_nonfinite(self.groups, squares)
        found = update(self.groups, features, self.momentum, masks, self._finite)
        return [
            _Updated(self, group, p, batch, taken)
            for group, pairs, (batch, taken) in zip(self.groups, self._pairs, found, strict=True)
            for p in pairs
        ]

    def _solve(self, updated: _Updated, dtype: torch.dtype, own: dict) -> tuple[Tensor, ...]:
        """Line 14 of Algorithm 1: tau of a group's pairs, and what its gradient needs."""
        _, group, pairs, batch, taken = updated
        place = pairs.indices[0]
        if not pairs.is_wide or place not in self._states:
            return pairs.solve(group, SIMILARITIES[self.statistic], self.shrinkage, own)
        count = batch.count
        seen = Batch(
            pairs.take_joint(batch.x),
            count if isinstance(count, int) else int(pairs.of_sets(count)),
            self.momentum,
            taken is None or bool(pairs.of_sets(taken)),
            dtype,
        )
        solution, self._states[place], exact = self._solver.solve(
            self._states[place], pairs.covariances(group), self.shrinkage, seen
        )
        self.steps[0] += 1
        self.steps[1] += exact
        return solution

    def _differentiable(
        self, solutions: list[Solution], features: Sequence[Tensor], dtype: torch.dtype
    ) -> Tensor:
        """Line 15 of Algorithm 1: tau of all pairs, with its gradient."""
        tau = self._by_pair([solution.tensors[0] for solution in solutions])
        similarity = SIMILARITIES[self.statistic]
        kept = torch.float64 if self.correct_chance else dtype
        tau = ClosedFormGradient.apply(
            tau, self._order, similarity, self.shrinkage, solutions, kept, *features
        )
        return self._corrected(tau).to(dtype)

    def _weight(
        self, group: RunningCovariance, pairs: SeparatePairs | JointPairs, taken: Tensor | None
    ) -> Tensor | float:
        """(P,) factors of the gradient; a number where all are alike."""
        weight = (1 - self.momentum) * world_size()
        counts = None if taken is None else pairs.of_sets(taken)
        if self.min_samples_per_dim:
            arrived = self._arrived(group, pairs)
            if not group.on_host or not bool(arrived.all()):
                counts = arrived if counts is None else counts & arrived
        return weight if counts is None else counts.to(group.weights.dtype) * weight

    def _arrived(self, group: RunningCovariance, pairs: SeparatePairs | JointPairs) -> Tensor:
        """(P,) bool, whether the covariances have an effective sample size that is enough."""
        needed = self.min_samples_per_dim * sum(self.dims[t] for t in self.pairs[pairs.indices[0]])
        return pairs.of_sets(group.weights.square() >= needed * group.squared_weights)

    def _fit(self, features: Sequence[Tensor]) -> None:
        """Check the features, and be where they are."""
        self._check(features)
        device = features[0].device
        if self.dims is None:
            self._build([f.shape[1] for f in features], device)
        elif self._pair_dims.device != device:
            self._move(device)

    def _build(self, dims: Sequence[int], device: torch.device) -> None:
        self.dims = tuple(dims)
        self.pairs = self._given_pairs or tuple(combinations(range(len(dims)), 2))
        for pair in self.pairs:
            if len(set(pair)) < 2 or not all(0 <= task < len(dims) for task in pair):
                raise ValueError(f"pairs: expected two of the {len(dims)} tasks, got {pair}")
        if len(set(map(frozenset, self.pairs))) < len(self.pairs):
            raise ValueError(f"pairs: expected each pair once, got {self.pairs}")
        listwise = self.deletion == "listwise" or len(dims) == 2
        sets = [tuple(range(len(dims)))] if listwise else list(self.pairs)
        by_dims: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for tasks in sets:
            by_dims.setdefault(tuple(dims[t] for t in tasks), []).append(tasks)
        self.groups = nn.ModuleList(
            RunningCovariance(alike, self.dims, device, self.start == "identity")
            for alike in by_dims.values()
        )
        self._pairs = [group_pairs(group, self.pairs) for group in self.groups]
        groups = [p for _, p in self._pair_groups()]
        self._states = {
            p.indices[0]: self._solver.init(
                *(self.dims[t] for t in sorted(self.pairs[p.indices[0]]))
            )
            for p in groups
            if p.is_wide and self.statistic == LARGEST
        }
        order = torch.tensor([index for p in groups for index in p.indices])
        self._order = order.argsort().to(device)
        widths = [[dims[t] for t in pair] for pair in self.pairs]
        self._pair_dims = torch.tensor(widths, device=device)
        self.widths = torch.tensor(dims, device=device)
        self.steps = torch.zeros(2, dtype=torch.int64, device=device)

    def _pair_groups(self) -> list[tuple[RunningCovariance, SeparatePairs | JointPairs]]:
        together = zip(self.groups, self._pairs, strict=True)
        return [(group, p) for group, pairs in together for p in pairs]

    def _move(self, device: torch.device) -> None:
        old = self.groups
        self._build(self.dims, device)
        for new, group in zip(self.groups, old, strict=True):
            new.take_over(group)

    def _apply(self, fn, recurse=True):
        """Follow a move to another device; ``half()`` and its like do not reach the covariances."""
        if self.dims is not None:
            covariance = self.groups[0].covariance
            device = fn(torch.empty(0, device=covariance.device)).device
            if device != covariance.device:
                self._move(device)
        return self

    def _check(self, features: Sequence[Tensor]) -> None:
        if len(features) < 2:
            raise ValueError(f"expected the features of two tasks or more, got {len(features)}")
        if self._given_names is not None and len(self._given_names) != len(features):
            raise ValueError(
                f"expected the features of {', '.join(self._given_names)}, got {len(features)}"
            )
        for task, f in enumerate(features[1:], 1):
            check_features(features[0], f, (self.name_of(0), self.name_of(task)))
        dims = tuple(f.shape[1] for f in features)
        if self.dims is not None and dims != self.dims:
            names = " and ".join(self.name_of(t) for t in range(len(features)))
            raise ValueError(
                f"{names}: expected {self.dims} features as in the running covariances, got {dims}"
            )

    def _masks(self, mask, features: Sequence[Tensor]) -> Tensor | None:
        """(N, T) bool, or None where all samples count."""
        n, device = len(features[0]), features[0].device
        if mask is None:
            return None
        masks = [mask] * len(features) if isinstance(mask, Tensor) else list(mask)
        if len(masks) != len(features):
            raise ValueError(f"mask: expected one for each task, got {len(masks)}")
        given = [m for m in masks if m is not None]
        for m in given:
            if m.shape != (n,) or m.dtype != torch.bool:
                raise ValueError(
                    f"mask: expected bool of shape ({n},), got {m.dtype} of {tuple(m.shape)}"
                )
        if not given:
            return None
        masks = [torch.ones_like(given[0]) if m is None else m for m in masks]
        masks = torch.stack(masks, 1).to(device)
        return None if precision.on_host(device) and n and bool(masks.all()) else masks

    def _by_pair(self, values: list[Tensor]) -> Tensor:
        """(P,) in the order of ``pairs`` from the groups' values; 0-d for two tasks."""
        ordered = values[0] if len(values) == 1 else torch.cat(values)[self._order]
        return ordered[0] if len(self.dims) == 2 else ordered

    def _corrected(self, tau: Tensor) -> Tensor:
        if not self.correct_chance:
            return tau
        first, second = (side.view(tau.shape) for side in self._pair_dims.T)
        corrected = corrected_similarity(tau, self.effective_sample_size, first, second)
        return torch.where(corrected.isnan(), 0.0, corrected)

    def _finite(self, batches: Sequence[CentredBatch]) -> Tensor | None:
        """0-d bool, whether all features are finite; None where the host has seen that they are."""
        suspects = [
            (group, batch.squares.flatten())
            for group, batch in zip(self.groups, batches, strict=True)
            if batch.squares is not None
        ]
        if not suspects:
            return None
        groups, squares = zip(*suspects, strict=True)
        squares = squares[0] if len(squares) == 1 else torch.cat(squares)
        if precision.on_host(squares.device):
            self._refuse_nonfinite(groups, squares)
            return None
        self._flags.put(squares)
        return squares.sum() < torch.inf

    def _refuse_nonfinite(self, groups: Sequence[RunningCovariance], squares: Tensor) -> None:
        """ValueError where sums of squares (n,) of the tasks of all sets are not finite."""
        tasks = [task for group in groups for tasks in group.sets for task in tasks]
        finite = squares.isfinite().tolist()
        nonfinite = {task for task, good in zip(tasks, finite, strict=True) if not good}
        if nonfinite:
            raise ValueError(
                f"{' and '.join(map(self.name_of, sorted(nonfinite)))}: the features hold values "
                "that are not finite (or whose squares are not); the batch was left out of the "
                "running covariances"
            )

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        widths = state_dict.get(f"{prefix}widths")
        if self.dims is None and widths is not None:
            self._build(widths.tolist(), widths.device)
        # earlier versions wrote the solver states as buffers
        for key in [k for k in state_dict if k.startswith(f"{prefix}warm.")]:
            del state_dict[key]
        state_dict.setdefault(f"{prefix}_extra_state", torch.zeros(0, dtype=torch.uint8))
        super()._load_from_state_dict(state_dict, prefix, *args)


@torch.compiler.disable
def measure_together(
    layers: Sequence[TaskRelationLayer],
    features: Sequence[Sequence[Tensor]],
    masks: Sequence[Tensor | Sequence[Tensor | None] | None],
) -> list[Tensor]:
    """What each layer returns for its features and mask, with fewer kernels on a device.

    Pairs of equal shapes are solved together there, those of predictions and labels for instance.

    Args:
        layers (Sequence[TaskRelationLayer]): all in training mode, or all in evaluation mode.
        features (Sequence[Sequence[Tensor]]): of each layer, see its ``forward``.
        masks (Sequence): of each layer, see its ``forward``.
    """
    dtypes, updated = [], []
    for layer, own, mask in zip(layers, features, masks, strict=True):
        layer._fit(own)
        dtype = torch.float32
        for f in own:
            dtype = torch.promote_types(dtype, f.dtype)
        dtypes.append(dtype)
        if layer.training:
            with torch.no_grad(), precision.full_precision(own[0].device):
                updated.append(layer._update(own, mask))
    if not updated:
        return [layer.similarity().to(d) for layer, d in zip(layers, dtypes, strict=True)]
    with torch.no_grad(), precision.full_precision(features[0][0].device):
        solved = _solve_together(updated, dtypes)
        solutions = [
            [
                Solution(
                    u.group, u.pairs, u.batch.x, u.layer._weight(u.group, u.pairs, u.taken), tensors
                )
                for u, tensors in zip(own, found, strict=True)
            ]
            for own, found in zip(updated, solved, strict=True)
        ]
    return [
        layer._differentiable(*found)
        for layer, *found in zip(layers, solutions, features, dtypes, strict=True)
    ]


def _solve_together(
    updated: list[list[_Updated]], dtypes: list[torch.dtype]
) -> list[list[tuple[Tensor, ...]]]:
    """Solutions of each layer's pairs."""
    solved: list[list] = [[None] * len(own) for own in updated]
    alike: dict[tuple, list[tuple[int, int, tuple[Tensor, ...]]]] = {}
    for i, own in enumerate(updated):
        for j, u in enumerate(own):
            if isinstance(u.pairs, SeparatePairs) and not u.group.on_host:
                s = u.pairs.covariances(u.group)
                key = u.layer.statistic, u.layer.shrinkage, s[1].shape[1:]
                alike.setdefault(key, []).append((i, j, s))
    for (statistic, shrinkage, _), found in alike.items():
        if len(found) > 1:
            blocks = (torch.cat(own) for own in zip(*(s for _, _, s in found), strict=True))
            tensors = SIMILARITIES[statistic].solve(*blocks, shrinkage)
            counts = [len(s[1]) for _, _, s in found]
            parts = zip(*(tensor.split(counts) for tensor in tensors), strict=True)
            for (i, j, _), part in zip(found, parts, strict=True):
                solved[i][j] = part
    for own, found, dtype in zip(updated, solved, dtypes, strict=True):
        shared: dict[int, dict] = {}
        for j, u in enumerate(own):
            if found[j] is None:
                found[j] = u.layer._solve(u, dtype, shared.setdefault(id(u.group), {}))
    return solved
