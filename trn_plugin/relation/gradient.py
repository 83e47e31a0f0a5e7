"""The closed-form gradient of what Algorithm 1 returns."""

from __future__ import annotations

import torch
from torch import Tensor

from trn_plugin.relation.pairs import Pairs
from trn_plugin.relation.precision import full_precision
from trn_plugin.relation.similarities import Similarity

__all__ = ["ClosedFormGradient"]


class ClosedFormGradient(torch.autograd.Function):
    r"""tau of P pairs, with a gradient to this batch's features only.

    .. math:: \frac{\partial\tau}{\partial F_1} = (1-m) \left(
              \bar F_1 \left(\frac{\partial\tau}{\partial S_{11}}
              + \frac{\partial\tau}{\partial S_{11}}^\top\right)
              + \bar F_2 \frac{\partial\tau}{\partial S_{12}}^\top\right)

    Its columns sum to 0 over the samples, as those of the centred features do, so that it is the
    gradient of the features too.
    """

    @staticmethod
    def forward(
        ctx,
        features: Tensor,  # (B, N, D), to which the gradient flows
        x: Tensor,  # (B, N, D), centred
        weight: Tensor,  # (P,), 1 - m, or 0 where there is to be no gradient
        places: Pairs,  # of the pairs' columns
        similarity: Similarity,
        shrinkage: float,
        dtype: torch.dtype,  # of tau
        *solution: Tensor,  # of Similarity.solve; the first is tau (P,)
    ) -> Tensor:
        ctx.given = features.dtype
        ctx.weight, ctx.places, ctx.similarity = weight, places, similarity
        ctx.shrinkage = shrinkage
        ctx.save_for_backward(x, *solution)
        return solution[0].to(dtype, copy=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, *solution = ctx.saved_tensors
        with full_precision(grad.device):
            scale = grad * ctx.weight
            x1, x2 = ctx.places.take(x)
            grads = ctx.similarity.gradient(x1, x2, solution, ctx.shrinkage, scale)
            return ctx.places.scatter(x, *grads).to(ctx.given), *[None] * (6 + len(solution))
