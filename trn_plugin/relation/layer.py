"""The task relation layer (Algorithm 1), for two tasks or many."""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from trn_plugin.device_flags import DeviceFlags
from trn_plugin.ranks import world_size
from trn_plugin.relation import precision
from trn_plugin.relation._features import check_features
from trn_plugin.relation.algorithm1 import Step, iterate, similarities, update
from trn_plugin.relation.chance import corrected_similarity
from trn_plugin.relation.similarities import SIMILARITIES, Similarity
from trn_plugin.relation.state import RelationState

__all__ = ["TaskRelationLayer", "measure_together"]

Mask = Tensor | Sequence[Tensor | None] | None


class ClosedFormGradient(torch.autograd.Function):
    r"""tau of P pairs, differentiable in the features of this batch only.

    .. math:: \frac{\partial\tau}{\partial F_1} = (1-m) \left(
              \bar F_1 \left(\frac{\partial\tau}{\partial S_{11}}
              + \frac{\partial\tau}{\partial S_{11}}^\top\right)
              + \bar F_2 \frac{\partial\tau}{\partial S_{12}}^\top\right)

    Its columns sum to 0, so the gradient with respect to the features (B, N, D) equals that with
    respect to the centred features x. It is multiplied by ``weight`` (P,). The first tensor of the
    ``solution`` is tau (P,).
    """

    @staticmethod
    def forward(ctx, features, x, weight, pairs, similarity, shrinkage, dtype, *solution) -> Tensor:
        ctx.options = pairs, similarity, shrinkage, features.dtype
        ctx.save_for_backward(x, weight, *solution)
        return solution[0].to(dtype, copy=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, *solution = ctx.saved_tensors
        pairs, similarity, shrinkage, dtype = ctx.options
        with precision.full_precision(grad.device):
            grads = similarity.gradient(*pairs.take(x), solution, shrinkage, grad * weight)
            return pairs.scatter(x, *grads).to(dtype), *[None] * (6 + len(solution))


class TaskRelationLayer(RelationState):
    r"""Task similarity of features that change as the network learns (Algorithm 1).

    Each training step updates running covariances, :math:`S_{ij} \leftarrow m S_{ij} + (1-m)\,
    \bar F_i^\top \bar F_j` from 0, and returns the largest canonical correlation tau of two tasks,
    or of every pair of several. Gradients flow through this batch's covariances only. They have a
    closed form that differentiates no decomposition, so they are finite even with fewer samples
    than features, dead features or one-hot labels. They are 0 until enough samples were seen.

    On a CPU a pair of wide tasks is solved by Davidson iterations that start from the last step's
    solution. On other devices every step is exact, without host synchronisation. Under
    torch.distributed the covariances are summed over ranks, and the gradient is multiplied by the
    world size, since DistributedDataParallel averages it.

    Args:
        momentum (float): m, in [0, 1).
        shrinkage (float): epsilon in :math:`S_{ii} + \epsilon\, \mathrm{tr}(S_{ii})/d_i\, I`;
            prevents a singular covariance (one-hot labels, dead features).
        dims (Sequence[int], optional): width of each task; default that of the first features.
        names (Sequence[str], optional): names of the tasks in errors; default f1, f2, ...
        pairs (Sequence[tuple[int, int]], optional): the pairs to measure; default all.
        deletion (str): which samples count where labels are missing. 'pairwise': those with both
            labels of a pair. 'listwise': those with all labels; cheaper (one joint covariance).
        correct_chance (bool): return :func:`corrected_similarity` at the effective sample size;
            0, with gradient 0, while there are too few samples.
        statistic (str): a name in ``SIMILARITIES``: 'largest' is the paper's tau; 'pillai' is
            the mean of all squared canonical correlations; 'cka' is linear CKA.
        start (str): 'zero', or 'identity' as Algorithm 1 is printed (S = I): tau of features
            of small variance is then far too small for hundreds of steps.
        min_samples_per_dim (float): effective samples needed for each of the d1 + d2 features
            before there is a gradient. With fewer, even unrelated features have a tau near 1.

    Raises:
        ValueError: an option out of range, shapes that do not fit, or non-finite features. A batch
            with non-finite features is left out; devices other than CPUs report it a step or two
            later.

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
        statistic: str = "largest",
        start: str = "zero",
        min_samples_per_dim: float = 5.0,
    ) -> None:
        deletions, known = ("pairwise", "listwise"), " or ".join(map(repr, SIMILARITIES))
        for name, value, is_valid, expected in (
            ("deletion", deletion, deletion in deletions, "'pairwise' or 'listwise'"),
            ("statistic", statistic, statistic in SIMILARITIES, known),
            ("start", start, start in ("zero", "identity"), "'zero' or 'identity'"),
            ("momentum", momentum, 0 <= momentum < 1, "a number in [0, 1)"),
            ("shrinkage", shrinkage, 1e-9 <= shrinkage <= 1, "a number in [1e-9, 1]"),
            ("min_samples_per_dim", min_samples_per_dim, min_samples_per_dim >= 0, "a number >= 0"),
        ):
            if not is_valid:
                raise ValueError(f"{name}: expected {expected}, found {value!r}")
        if correct_chance and statistic != "largest":
            raise ValueError(f"correct_chance: needs statistic 'largest', found {statistic!r}")
        super().__init__(
            dims, pairs, deletion == "listwise", start == "identity", statistic == "largest"
        )
        self.statistic, self.momentum, self.shrinkage = statistic, momentum, shrinkage
        self.deletion = deletion
        self.correct_chance, self.min_samples_per_dim = correct_chance, min_samples_per_dim
        self._given_names = None if names is None else tuple(names)
        self._flags = DeviceFlags()

    @property
    def needed_samples(self) -> Tensor:
        """(P,) effective sample sizes from which tau has a gradient."""
        return self.min_samples_per_dim * self.pair_dims.sum(1)

    @property
    def arrived(self) -> Tensor:
        """Whether enough samples were seen, bool, of the shape of tau."""
        if self.dims is None:
            return torch.zeros((), dtype=torch.bool)
        n = self.effective_sample_size
        return (n >= self.needed_samples.view_as(n)) & (n > 0)

    def similarity(self) -> Tensor:
        """tau of the running covariances, 0-d for two tasks, else (P,); 0 before any update."""
        steps = [Step(s, pairs) for s in self.groups for pairs in s.pairs]
        similarities(steps, *self._options)
        return self._corrected(self._ordered([step.solution[0] for step in steps]))

    @torch.compiler.disable
    def forward(self, *features: Tensor, mask: Mask = None) -> Tensor:
        """Update the covariances (training mode) and return tau, 0-d for two tasks, else (P,).

        Args:
            *features (Tensor): (N, d_t) of each task, of the same samples.
            mask (Tensor or Sequence[Tensor | None], optional): (N,) bool, the samples that count,
                or one such mask for each task; None for all, which is faster. A pair with fewer
                than two samples is not updated, and its gradient is 0.
        """
        return measure_together([self], [features], [mask])[0]

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, shrinkage={self.shrinkage}, dims={self.dims}"

    @property
    def _options(self) -> tuple[Similarity, float]:
        return SIMILARITIES[self.statistic], self.shrinkage

    def _corrected(self, tau: Tensor) -> Tensor:
        if not self.correct_chance or self.dims is None:
            return tau
        d1, d2 = (side.view(tau.shape) for side in self.pair_dims.T)
        corrected = corrected_similarity(tau, self.effective_sample_size, d1, d2)
        return torch.where(corrected.isnan(), 0.0, corrected)

    def _prepare(self, features: Sequence[Tensor]) -> torch.dtype:
        """Check the features, move to their device, and return the dtype of tau."""
        names = self._given_names or [f"f{task + 1}" for task in range(len(features))]
        if len(features) < 2 or len(names) != len(features):
            wanted = ", ".join(names) if self._given_names else "two tasks or more"
            raise ValueError(f"expected the features of {wanted}, found {len(features)}")
        self._names = names
        for name, f in zip(names[1:], features[1:], strict=True):
            check_features(features[0], f, (names[0], name))
        dims = tuple(f.shape[1] for f in features)
        if self.dims is None:
            self._build(dims)
        elif dims != self.dims:
            raise ValueError(
                f"{' and '.join(names)}: expected {self.dims} features as in the running "
                f"covariances, found {dims}"
            )
        if self.widths.device != features[0].device:
            self.to(features[0].device)
        return reduce(torch.promote_types, (f.dtype for f in features), torch.float32)

    def _update(self, features: Sequence[Tensor], mask: Mask, dtype: torch.dtype) -> list[Step]:
        """Lines 6 to 13 of Algorithm 1, and line 14 for wide pairs on a CPU."""
        for squares in self._flags.take():
            self._refuse_nonfinite(squares)
        masks = self._stacked(mask, features)
        steps = update(self.groups, features, self.momentum, masks, self._check_finite)
        for step in steps:
            if step.pairs.state is not None and step.S.on_host:
                exact = iterate(step, self.momentum, self.shrinkage, dtype)
                self.steps += torch.tensor([1, exact])
        return steps

    def _tau(self, steps: list[Step], dtype: torch.dtype) -> Tensor:
        """Line 15 of Algorithm 1: differentiable tau of all pairs."""
        own = torch.float64 if self.correct_chance else dtype
        tau = [
            ClosedFormGradient.apply(
                s.C.features, s.C.x, self._weight(s), s.pairs, *self._options, own, *s.solution
            )
            for s in steps
        ]
        return self._corrected(self._ordered(tau)).to(dtype)

    @torch.no_grad()
    def _weight(self, step: Step) -> Tensor:
        """(P,) factors of the gradient; 0 until enough samples were seen."""
        needed = self.min_samples_per_dim * sum(step.pairs.widths)
        keep = step.S.weights**2 >= needed * step.S.squared_weights  # effective sample size
        if step.updated is not None:
            keep = keep & step.updated
        keep = step.pairs.of_sets(keep).to(step.S.weights.dtype)
        return keep * ((1 - self.momentum) * world_size())

    def _stacked(self, mask: Mask, features: Sequence[Tensor]) -> Tensor | None:
        """Masks (N, T) bool; None if all samples count."""
        if mask is None or torch.is_tensor(mask):
            mask = [mask] * len(features)
        if len(mask) != len(features):
            raise ValueError(f"mask: expected one for each task, found {len(mask)}")
        given, n = [m for m in mask if m is not None], len(features[0])
        for m in given:
            if m.shape != (n,) or m.dtype != torch.bool:
                found = f"{m.dtype} of {tuple(m.shape)}"
                raise ValueError(f"mask: expected bool of shape ({n},), found {found}")
        if not given or (n and precision.on_host(given[0].device) and all(map(torch.all, given))):
            return None
        masks = [torch.ones_like(given[0]) if m is None else m for m in mask]
        return torch.stack(masks, 1).to(features[0].device)

    def _check_finite(self, squares: list[Tensor]) -> Tensor | None:
        """Whether all features are finite, 0-d bool or None for yes; see ``algorithm1.update``."""
        squares = squares[0] if len(squares) == 1 else torch.cat([own.flatten() for own in squares])
        if not precision.on_host(squares.device):
            self._flags.put(squares)
            return squares.sum() < torch.inf
        if not math.isfinite(squares.sum()):
            self._refuse_nonfinite(squares)
        return None

    def _refuse_nonfinite(self, squares: Tensor) -> None:
        """Raise a ValueError that names the tasks whose sums of squares are not finite."""
        owners = [task for s in self.groups for task in s.owners]
        columns = (~squares.isfinite()).flatten().nonzero()[:, 0].tolist()
        if nonfinite := sorted({owners[column] for column in columns}):
            raise ValueError(
                f"{' and '.join(self._names[task] for task in nonfinite)}: the features hold "
                "values that are not finite or whose squares overflow; the batch was left out"
            )


@torch.compiler.disable
def measure_together(
    layers: Sequence[TaskRelationLayer],
    features: Sequence[Sequence[Tensor]],
    masks: Sequence[Mask],
) -> list[Tensor]:
    """Results of several layers; pairs of equal widths are solved together.

    All layers must be in training mode, or none.
    """
    dtypes = [layer._prepare(own) for layer, own in zip(layers, features, strict=True)]
    if not layers[0].training:
        return [layer.similarity().to(d) for layer, d in zip(layers, dtypes, strict=True)]
    with precision.full_precision(features[0][0].device):
        inputs = zip(layers, features, masks, dtypes, strict=True)
        steps = [layer._update(*own) for layer, *own in inputs]
        for options in {layer._options for layer in layers}:
            each = zip(layers, steps, strict=True)
            equal = [s for layer, own in each if layer._options == options for s in own]
            similarities(equal, *options)
        return [layer._tau(*own) for layer, *own in zip(layers, steps, dtypes, strict=True)]
