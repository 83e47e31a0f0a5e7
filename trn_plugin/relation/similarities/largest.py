"""The largest canonical correlation, the paper's task similarity."""

from __future__ import annotations

import torch
from torch import Tensor

from trn_plugin.relation import precision
from trn_plugin.relation.similarities.base import Similarity
from trn_plugin.relation.solvers import exact

__all__ = ["LargestCanonicalCorrelation"]


class LargestCanonicalCorrelation(Similarity):
    r"""tau, with canonical vectors a and b, :math:`a^\top (S_{11} + \epsilon v I)\, a = 1`.

    .. math:: \tau = \sigma_{\max}(S_{11}^{-1/2} S_{12} S_{22}^{-1/2}), \quad
              \frac{\partial\tau}{\partial S_{12}} = a b^\top, \quad
              \frac{\partial\tau}{\partial S_{11}}
              = -\tfrac{\tau}{2} (a a^\top + \tfrac{\epsilon}{d_1} |a|^2 I)

    (Eq. 10.) No decomposition is differentiated. The last term is the derivative of the shrinkage,
    which is relative to the mean variance v. Unrelated tasks have tau, a and b of 0.
    """

    def solve(self, s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> tuple[Tensor, ...]:
        """See :class:`Similarity`."""
        return exact.solve(s11, s12, s22, shrinkage)

    def gradient(
        self,
        x1: Tensor,
        x2: Tensor,
        solution: tuple[Tensor, ...],
        shrinkage: float,
        scale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        r"""See :class:`Similarity`: :math:`(X_2 b - \tau X_1 a)\, a^\top` and a shrinkage term."""
        if len(solution[0]) == 1 and precision.on_host(x1.device):
            return _gradient_of_one(x1, x2, solution, shrinkage, float(scale))
        tau, a, b = solution
        tau, scale, a, b = (t.to(x1.dtype) for t in (tau, scale, a, b))
        p, q = torch.bmm(x1, a[..., None]), torch.bmm(x2, b[..., None])
        shrunk = tau * -shrinkage
        grads = []
        for x, own, other, vector in ((x1, p, q, a), (x2, q, p, b)):
            scaled = scale[:, None] * vector
            ridge = (scaled * vector).mean(1) * shrunk
            residual = torch.addcmul(other, tau[:, None, None], own, value=-1)
            grad = x * ridge[:, None, None]
            grads.append(grad.baddbmm_(residual, scaled[:, None]))
        return grads[0], grads[1]


def _gradient_of_one(x1, x2, solution, shrinkage: float, scale: float) -> tuple[Tensor, Tensor]:
    """The gradient of one pair on the host; reads each wide matrix once."""
    tau, (a,), (b,) = float(solution[0]), *(v.to(x1.dtype) for v in solution[1:])
    (x1,), (x2,) = x1, x2
    p, q = torch.mv(x1, a), torch.mv(x2, b)
    grads = []
    for x, own, other, vector in ((x1, p, q, a), (x2, q, p, b)):
        ridge = -scale * tau * shrinkage * float(vector.dot(vector)) / len(vector)
        residual = torch.sub(other, own, alpha=tau)
        grads.append(torch.addr(x, residual, vector, beta=ridge, alpha=scale)[None])
    return grads[0], grads[1]
