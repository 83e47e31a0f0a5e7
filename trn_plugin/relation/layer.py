"""The task relation layer (Algorithm 1), for two tasks or many, with its closed-form gradient."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from trn_plugin.relation._canonical import canonical_vectors
from trn_plugin.relation._late import LateFlags
from trn_plugin.relation._measure import UpdateAndMeasure
from trn_plugin.relation._members import Members
from trn_plugin.relation._moments import RunningMoments
from trn_plugin.relation._spectrum import mean_square
from trn_plugin.relation._warm import WarmPair
from trn_plugin.relation.chance import corrected_similarity
from trn_plugin.relation.similarity import check_features

__all__ = ["TaskRelationLayer"]

LARGEST = "largest"
WARM_STEP, EXACT_STEP = torch.tensor([1, 0]), torch.tensor([1, 1])
METHODS = {LARGEST: canonical_vectors, "pillai": mean_square}


class TaskRelationLayer(nn.Module):
    r"""Task similarity of features that change as the network learns (Algorithm 1).

    Each training step centres the mini-batch, updates running moments

    .. math:: S_{ij} \leftarrow m S_{ij} + (1-m)\, \bar F_i^\top \bar F_j,
              \qquad S = 0 \text{ at the start}

    and returns the largest canonical correlation tau of two tasks, or of every pair of several.
    tau does not change when all moments are multiplied by a number, so that it is that of the
    samples seen so far. Algorithm 1 starts from :math:`S_{ii} = I`: tau of features that vary
    little is then far too small for hundreds of steps; ``start='identity'`` does so.
    Gradients flow through this batch's moments only. With w = 1 - m, and a, b the canonical
    vectors of the updated moments,

    .. math:: \partial\tau/\partial F_1 = w \left(\bar F_2 b a^\top - \tau \bar F_1 a a^\top
              - \tau \tfrac{\epsilon}{d_1} |a|^2 \bar F_1\right)

    and the same with 1 and 2 exchanged; the last term is that of the shrinkage, which moves with
    the moments. No decomposition is differentiated, so the gradient is finite where autograd
    through an SVD is not: with fewer samples than features, with dead features and one-hot labels.

    Several tasks share one joint covariance if they are measured on the same samples: its blocks
    are the pairs' moments, each task is factorised once, pairs of equal shapes are solved
    together. On a CPU a pair of wide tasks is solved from where it was a step ago, with a check
    of the residual and the exact solution where that fails (see :attr:`exact_rate`); on other
    devices every step is exact and none makes the device wait for the host.

    In evaluation mode nothing is updated and tau of the moments so far is returned. Under
    torch.distributed the moments are summed over ranks around the global mean, and the gradient
    is scaled by the world size, since DistributedDataParallel averages gradients.

    Args:
        momentum (float): m, in [0, 1).
        shrinkage (float): epsilon. :math:`S_{ii} + \epsilon\, \mathrm{tr}(S_{ii})/d_i\, I` is
            what is whitened; prevents a singular factor (one-hot labels, dead features).
        dims (Sequence[int], optional): width of each task; else taken from the first features.
        names (Sequence[str], optional): what the errors call the tasks; default f1, f2, ...
        pairs (Sequence[tuple[int, int]], optional): which tasks are measured; default all pairs.
        deletion (str): which samples count where labels are missing. 'pairwise': each pair uses
            the samples that have both labels, and keeps moments of its own. 'listwise': all
            pairs use the samples that have all labels, and share one joint covariance, which
            is cheaper; the same where no label is missing.
        correct_chance (bool): return :func:`corrected_similarity` at the effective sample size,
            what is left of tau when the part that unrelated features would have is taken off.
        statistic (str): of the canonical correlations: 'largest' is tau, the paper's; 'pillai' is
            Pillai's trace over min(d1, d2), the mean of all their squares.
        start (str): 'zero' or 'identity', the moments before the first batch.

    Raises:
        ValueError: an option out of range, shapes that do not fit, or features that are not
            finite: at once on a CPU, a step or two later on other devices, where reading a flag
            at once would stall the device. Such a batch never enters the running moments.

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
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
        if not 1e-9 <= shrinkage <= 1:
            raise ValueError(f"shrinkage: expected a number in [1e-9, 1], got {shrinkage}")
        if deletion not in ("pairwise", "listwise"):
            raise ValueError(f"deletion: expected 'pairwise' or 'listwise', got {deletion!r}")
        if statistic not in METHODS:
            raise ValueError(f"statistic: expected one of {list(METHODS)}, got {statistic!r}")
        if correct_chance and statistic != LARGEST:
            raise ValueError(
                "correct_chance: the law of chance is that of the largest canonical correlation, "
                f"not of statistic {statistic!r}"
            )
        if start not in ("zero", "identity"):
            raise ValueError(f"start: expected 'zero' or 'identity', got {start!r}")
        self.statistic = statistic
        self.start = start
        self.momentum = momentum
        self.shrinkage = shrinkage
        self.deletion = deletion
        self.correct_chance = correct_chance
        self._given_names = None if names is None else tuple(names)
        self._given_pairs = None if pairs is None else tuple(map(tuple, pairs))
        self.dims: tuple[int, ...] | None = None
        self.pairs: tuple[tuple[int, int], ...] = ()
        self.groups = nn.ModuleList()
        self.warm = nn.ModuleDict()
        self.members: list[Members] = []
        self.register_buffer("widths", None)
        self.register_buffer("steps", None)
        self._flags = LateFlags()
        if dims is not None:
            self._start(dims, torch.device("cpu"))

    @property
    def _method(self):
        return METHODS[self.statistic]

    @property
    def effective_sample_size(self) -> Tensor:
        """Samples behind the running moments, of the shape of tau.

        (sum of weights)^2 / sum of squared weights; tends to batch (1+m)/(1-m) with a constant
        batch size (Kish's formula). 0 before the first update.
        """
        if self.dims is None:
            return torch.zeros(())
        return self.by_pair(
            [
                pairs.by_set(members.group.effective_sample_size)
                for members in self.members
                for pairs in members.pairs
            ]
        )

    @property
    def pair_dims(self) -> Tensor:
        """(P, 2) widths of the two tasks of each pair."""
        return self._sides

    @property
    def exact_rate(self) -> float | None:
        """Share of the steps of wide pairs on a CPU that took the exact route; None without any."""
        if not self.warm:
            return None
        solved, exact = self.steps.tolist()
        return exact / max(solved, 1)

    @torch.no_grad()
    def similarity(self) -> Tensor:
        """tau of the running moments, 0-d for two tasks, else (P,); 0 before the first update."""
        if self.dims is None:
            return torch.zeros(())
        taus = []
        for members in self.members:
            factors: dict = {}
            options = members.group, self.shrinkage, factors, self._method
            taus += [pairs.solve(*options)[0] for pairs in members.pairs]
        return self._corrected(self.by_pair(taus))

    def solve(
        self, members: Members, x: Tensor, w: Tensor, count: Tensor, dtype: torch.dtype
    ) -> list[tuple[Tensor, ...]]:
        """tau, a and b of each class of pairs of a group, after an update with features x."""
        solved, factors = [], {}
        accuracy, iterations = (1e-9, 24) if dtype == torch.float64 else (6e-4, 12)
        for pairs in members.pairs:
            if not pairs.is_wide or self.statistic != LARGEST:
                solved.append(pairs.solve(members.group, self.shrinkage, factors, self._method))
                continue
            moments = (s[0] for s in pairs.moments(members.group))
            batch = pairs.side_by_side(x)
            gain, samples = float(pairs.by_set(w)), int(pairs.by_set(count))
            *triple, exact = self.warm[str(pairs.pairs[0])].solve(
                *moments, self.shrinkage, batch, samples, self.momentum, gain, accuracy, iterations
            )
            solved.append(triple)
            self.steps.add_(EXACT_STEP if exact else WARM_STEP)
        return solved

    @torch.compiler.disable
    def forward(self, *features: Tensor, mask: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """Update the moments (training mode) and return tau.

        Args:
            *features (Tensor): (N, d_t) of each task, of the same samples.
            mask (Tensor or Sequence[Tensor], optional): (N,) bool, the samples that count, or one
                such mask for each task. With fewer than two samples on all ranks a pair's
                moments stay as they are and its gradient is 0.

        Returns:
            Tensor: tau in [0, 1], float32 at least, on the features' device: 0-d for two tasks,
            else (P,), in the order of ``pairs``.
        """
        self._check(features)
        device = features[0].device
        if self.dims is None:
            self._start([f.shape[1] for f in features], device)
        elif self._sides.device != device:
            self._move(device)
        dtype = torch.float32
        for f in features:
            dtype = torch.promote_types(dtype, f.dtype)
        if not self.training:
            return self.similarity().to(dtype)
        masks = self._masks(mask, features)
        for faulty in self._flags.take():
            self.raise_if_faulty(faulty)
        taus, faulty = UpdateAndMeasure.apply(self, masks, *features)
        if faulty is not None:
            self._flags.put(faulty)
        return self._corrected(taus).to(dtype)

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, shrinkage={self.shrinkage}, dims={self.dims}"

    def name_of(self, task: int) -> str:
        """What the errors call a task."""
        return f"f{task + 1}" if self._given_names is None else self._given_names[task]

    def _start(self, dims: Sequence[int], device: torch.device) -> None:
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
        for members in sets:
            by_dims.setdefault(tuple(dims[t] for t in members), []).append(members)
        self.groups = nn.ModuleList(
            RunningMoments(s, d, device, self.start == "identity") for d, s in by_dims.items()
        )
        self.members = [Members(group, dims, self.pairs) for group in self.groups]
        classes = [pairs for members in self.members for pairs in members.pairs]
        self.warm = nn.ModuleDict(
            {
                str(pairs.pairs[0]): WarmPair()
                for pairs in classes
                if pairs.is_wide and self.statistic == LARGEST
            }
        )
        order = torch.tensor([place for pairs in classes for place in pairs.pairs])
        self.order = order.argsort().to(device)
        self._sides = torch.tensor([[dims[t] for t in pair] for pair in self.pairs], device=device)
        self.widths = torch.tensor(dims, device=device)
        self.steps = torch.zeros(2, dtype=torch.int64, device=device)

    def _move(self, device: torch.device) -> None:
        old = [group.state_dict() for group in self.groups]
        self._start(self.dims, device)
        for group, state in zip(self.groups, old, strict=True):
            group.load_state_dict(state)

    def _apply(self, fn, recurse=True):
        """Follow a move to another device; ``half()`` and its like do not reach the moments."""
        if self.dims is not None:
            moments = self.groups[0].moments
            device = fn(torch.empty(0, device=moments.device)).device
            if device != moments.device:
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
                f"{names}: expected {self.dims} features as in the running moments, got {dims}"
            )

    def _masks(self, mask, features: Sequence[Tensor]) -> Tensor | None:
        """(N, T) bool, or None where all samples count."""
        n, device = len(features[0]), features[0].device
        if mask is None:
            return None
        masks = [mask] * len(features) if isinstance(mask, Tensor) else list(mask)
        if len(masks) != len(features):
            raise ValueError(f"mask: expected one for each task, got {len(masks)}")
        for m in masks:
            if m.shape != (n,) or m.dtype != torch.bool:
                raise ValueError(
                    f"mask: expected bool of shape ({n},), got {m.dtype} of {tuple(m.shape)}"
                )
        return torch.stack(masks, 1).to(device)

    def by_pair(self, values: list[Tensor]) -> Tensor:
        """(P,) in the order of ``pairs`` from the classes' values; 0-d for two tasks."""
        ordered = values[0] if len(values) == 1 else torch.cat(values)[self.order]
        return ordered[0] if len(self.dims) == 2 else ordered

    def _corrected(self, taus: Tensor) -> Tensor:
        if not self.correct_chance:
            return taus
        first, second = (side.view(taus.shape) for side in self._sides.T)
        return corrected_similarity(taus, self.effective_sample_size, first, second)

    def raise_if_faulty(self, faulty: Tensor) -> None:
        """ValueError where features were not finite; (T,) int, above 0 for such a task."""
        if bool(faulty.any()):
            names = [self.name_of(task) for task, bad in enumerate(faulty.tolist()) if bad]
            raise ValueError(
                f"{' and '.join(names)}: the features hold values that are not finite (or whose "
                "squares are not); the batch was left out of the running moments"
            )

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        widths = state_dict.get(f"{prefix}widths")
        if self.dims is None and widths is not None:
            self._start(widths.tolist(), widths.device)
        # what wide pairs start warm from is left out where a device has no use for it, and where
        # another version wrote it
        for key in [k for k in state_dict if k.startswith(f"{prefix}warm.")]:
            pair, name = key.removeprefix(f"{prefix}warm.").split(".", 1)
            if pair not in self.warm or name not in WarmPair.STATE:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)
