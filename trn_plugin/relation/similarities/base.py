"""The base class of similarities of two tasks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Similarity"]


class Similarity:
    """A symmetric function of S11, S12 and S22 with values in [0, 1], for P pairs at once.

    It is invariant to a common positive factor of the three. A subclass is added to
    ``SIMILARITIES`` by name. It defines :meth:`value`, and autograd gives the gradient; or where a
    closed form is known, :meth:`solve` and, if that is faster, :meth:`gradient`.
    """

    def value(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> Tensor:
        """(P,) of (P, d1, d1), (P, d1, d2) and (P, d2, d2), differentiable."""
        raise NotImplementedError

    def solve(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> tuple[Tensor, ...]:
        """The similarity (P,) and the tensors (P, ...) that :meth:`gradient` needs.

        These are by default the derivatives with respect to the three blocks.
        """
        with torch.enable_grad():
            blocks = [s.detach().requires_grad_() for s in (s11, s12, s22)]
            value = self.value(*blocks, shrinkage)
            derivatives = torch.autograd.grad(value.sum(), blocks)
        return value.detach(), *derivatives

    def gradient(
        self,
        x1: Tensor,
        x2: Tensor,
        solution: tuple[Tensor, ...],
        shrinkage: float,
        scale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        r"""Gradient with respect to features whose covariances are :math:`S_{ij} = X_i^\top X_j`.

        .. math:: \partial X_1 = X_1 (\partial S_{11} + \partial S_{11}^\top)
                  + X_2\, \partial S_{12}^\top

        Args:
            x1, x2 (Tensor): (P, N, d1) and (P, N, d2) centred features.
            solution (tuple[Tensor, ...]): result of :meth:`solve`.
            shrinkage (float): epsilon.
            scale (Tensor): (P,) factors of the gradient.
        """
        _, d11, d12, d22 = (t.to(x1.dtype) for t in solution)
        d11, d12, d22 = (scale.to(x1.dtype)[:, None, None] * d for d in (d11, d12, d22))
        return x1 @ (d11 + d11.mT) + x2 @ d12.mT, x2 @ (d22 + d22.mT) + x1 @ d12
