"""The closed-form gradient of what Algorithm 1 returns."""

from __future__ import annotations

import torch
from torch import Tensor

from trn_plugin.relation.precision import full_precision

__all__ = ["ClosedFormGradient"]


class ClosedFormGradient(torch.autograd.Function):
    r"""tau of P pairs, with a gradient to this batch's features only.

    .. math:: \frac{\partial\tau}{\partial F_1} = (1-m) \left(
              \bar F_1 \left(\frac{\partial\tau}{\partial S_{11}}
              + \frac{\partial\tau}{\partial S_{11}}^\top\right)
              + \bar F_2 \frac{\partial\tau}{\partial S_{12}}^\top\right)

    Its columns sum to 0 over the samples, as those of the centred features do, so that it is the
    gradient of the features too. Of features (B, N, D), which are x when centred; factors (P,) of
    the gradient; the solution of ``Similarity.solve``, whose first is tau (P,).
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
        with full_precision(grad.device):
            grads = similarity.gradient(*pairs.take(x), solution, shrinkage, grad * weight)
            return pairs.scatter(x, *grads).to(dtype), *[None] * (6 + len(solution))
