"""What a similarity of two tasks is: a function of their covariances."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Similarity"]


class Similarity(ABC):
    """A symmetric function of S11, S12 and S22 with values in [0, 1], for P pairs at once.

    It must not change when all three are multiplied by one positive number. A new one defines
    :meth:`value` and is put into ``SIMILARITIES`` by name; its gradient is then autograd's. Where
    a closed form is known, :meth:`between` and :meth:`gradient` give it.
    """

    @abstractmethod
    def value(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> Tensor:
        """(P,) of (P, d1, d1), (P, d1, d2) and (P, d2, d2), differentiable."""

    def own(self, s: Tensor, shrinkage: float) -> tuple[Tensor, ...]:
        """What is computed once for each of T tasks, of (T, d, d) covariances."""
        return (s,)

    def between(
        self, own1: tuple[Tensor, ...], s12: Tensor, own2: tuple[Tensor, ...], shrinkage: float
    ) -> tuple[Tensor, ...]:
        """The similarity (P,), and the tensors that :meth:`gradient` needs.

        Args:
            own1, own2 (tuple[Tensor, ...]): of :meth:`own`, for the tasks of each pair.
            s12 (Tensor): (P, d1, d2) cross-covariances.
            shrinkage (float): epsilon.
        """
        with torch.enable_grad():
            s11, s12, s22 = (s.detach().requires_grad_() for s in (own1[0], s12, own2[0]))
            value = self.value(s11, s12, s22, shrinkage)
            d11, d12, d22 = torch.autograd.grad(value.sum(), (s11, s12, s22))
        return value.detach(), d11, d12, d22

    def solve(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> tuple[Tensor, ...]:
        """As :meth:`between`, from the three covariances."""
        if s11.shape == s22.shape:
            both = self.own(torch.cat([s11, s22]), shrinkage)
            own1, own2 = zip(*(tensor.split(len(s11)) for tensor in both), strict=True)
        else:
            own1, own2 = self.own(s11, shrinkage), self.own(s22, shrinkage)
        return self.between(own1, s12, own2, shrinkage)

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
            solution (tuple[Tensor, ...]): of :meth:`between`.
            shrinkage (float): epsilon.
            scale (Tensor): (P,), what the gradient is multiplied by.
        """
        _, d11, d12, d22 = (t.to(x1.dtype) for t in solution)
        d11, d12, d22 = (scale.to(x1.dtype)[:, None, None] * d for d in (d11, d12, d22))
        return x1 @ (d11 + d11.mT) + x2 @ d12.mT, x2 @ (d22 + d22.mT) + x1 @ d12
