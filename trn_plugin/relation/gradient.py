"""The closed-form gradient of what Algorithm 1 returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trn_plugin.relation.covariance import RunningCovariance
from trn_plugin.relation.pairs import JointPairs, SeparatePairs
from trn_plugin.relation.precision import full_precision
from trn_plugin.relation.similarities import Similarity

__all__ = ["ClosedFormGradient", "Solution"]


class Solution(NamedTuple):
    """Similarities of some pairs after an update.

    Attributes:
        source (RunningCovariance): of their sets.
        pairs (SeparatePairs | JointPairs): which.
        x (Tensor): (B, N, D) centred features of the sets.
        weight (Tensor | float): (P,), 1 - m times the number of processes, which average
            gradients; 0 where the batch was not taken in, or too few samples were.
        tensors (tuple[Tensor, ...]): of :meth:`Similarity.between`; the first is tau (P,).
    """

    source: RunningCovariance
    pairs: SeparatePairs | JointPairs
    x: Tensor
    weight: Tensor | float
    tensors: tuple[Tensor, ...]


class ClosedFormGradient(torch.autograd.Function):
    r"""tau, with a gradient to this batch's features only.

    .. math:: \frac{\partial\tau}{\partial F_1} = (1-m) \left(
              \bar F_1 \left(\frac{\partial\tau}{\partial S_{11}}
              + \frac{\partial\tau}{\partial S_{11}}^\top\right)
              + \bar F_2 \frac{\partial\tau}{\partial S_{12}}^\top\right)

    Its arguments are tau in the order of the layer's pairs, the pairs' places in the order of the
    solutions, the similarity, epsilon, the solutions and the features of all tasks.
    """

    @staticmethod
    def forward(
        ctx,
        tau: Tensor,
        order: Tensor,
        similarity: Similarity,
        shrinkage: float,
        solutions: Sequence[Solution],
        dtype: torch.dtype,
        *features: Tensor,
    ) -> Tensor:
        ctx.similarity, ctx.shrinkage = similarity, shrinkage
        ctx.plan = [(s.source, s.pairs, s.weight, len(s.tensors)) for s in solutions]
        ctx.features = [(f.shape[1], f.dtype) for f in features]
        ctx.save_for_backward(order, *(t for s in solutions for t in (s.x, *s.tensors)))
        return tau.to(dtype, copy=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        with full_precision(grad.device):
            order, *saved = ctx.saved_tensors
            grads = [grad.reshape(-1)]
            if len(ctx.plan) > 1:
                grads = torch.empty_like(grad).index_copy_(0, order, grad)
                grads = grads.split([len(pairs.indices) for _, pairs, *_ in ctx.plan])
            total, in_sets, last = None, None, None
            for (source, pairs, weight, count), scale in zip(ctx.plan, grads, strict=True):
                x, *tensors = saved[: count + 1]
                del saved[: count + 1]
                x1, x2 = pairs.take(x)
                found = ctx.similarity.gradient(x1, x2, tensors, ctx.shrinkage, scale * weight)
                if len(ctx.features) == 2:
                    return *[None] * 6, *_as_given([g[0] for g in found], ctx.features)
                if source is not last:
                    total = total if last is None else last.scatter(in_sets, total)
                    in_sets, last = torch.zeros_like(x), source
                pairs.add(in_sets, *found)
            total = last.scatter(in_sets, total)
            widths = [width for width, _ in ctx.features]
            return *[None] * 6, *_as_given(total.split(widths, 1), ctx.features)


def _as_given(grads: Sequence[Tensor], features: Sequence[tuple[int, torch.dtype]]) -> list[Tensor]:
    return [g.to(dtype) for g, (_, dtype) in zip(grads, features, strict=True)]
