"""The exact solver: Cholesky whitening and an SVD, on any device, without host synchronisation."""

import torch
from torch import Tensor

from trn_plugin.relation import precision
from trn_plugin.relation._whitening import factors, unwhiten, whiten

__all__ = ["leading_triples", "solve"]

# The Gram matrix is raised to the power 2^SQUARINGS, which damps a second correlation that is 1e-4
# below the first to e^-13 of it.
SQUARINGS = 16
SMALL = 20  # width up to which one call of ``linalg.svd`` is faster than three cheaper calls


def solve(s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""tau (P,) and canonical vectors a (P, d1) and b (P, d2) of P pairs.

    :math:`a^\top (S_{11} + \epsilon v I)\, a = 1`; unrelated tasks have tau, a and b of 0.
    """
    l1, l2 = factors(s11, s22, shrinkage)
    tau, u, v = leading_vectors(whiten(l1, s12, l2))
    return tau, unwhiten(l1, u[..., None])[..., 0], unwhiten(l2, v[..., None])[..., 0]


def leading_vectors(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tau (P,), u (P, d1) and v (P, d2) of matrices (P, d1, d2); all 0 for unrelated tasks.

    Devices other than the host use repeated squaring, since decompositions synchronise.
    """
    if k.shape[-2] < k.shape[-1]:
        tau, v, u = leading_vectors(k.mT)
        return tau, u, v
    if k.shape[-1] == 1:
        length = torch.linalg.vector_norm(k, dim=(-2, -1))
        u = k[..., 0] / length.clamp(min=torch.finfo(k.dtype).tiny)[..., None]
        v = torch.ones_like(length)[..., None]
    elif precision.on_host(k.device):
        u, length, v = (t[..., 0] for t in leading_triples(k, 1))
    else:
        length, u, v = _by_squaring(k)
    related, tau = precision.is_related(length), length.clamp(max=1.0)
    if precision.on_host(k.device) and related.all():
        return tau, u, v
    own = related[..., None]
    return tuple(torch.where(r, t, 0.0) for r, t in ((related, tau), (own, u), (own, v)))


def leading_triples(k: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading ``count`` singular triples, faster than ``linalg.svd``.

    Values below sqrt(eps) are not in order.
    """
    if max(k.shape[-2:]) <= SMALL:
        u, s, vh = torch.linalg.svd(k, full_matrices=False)
        return u[..., :count], s[..., :count], vh.mT[..., :count]
    if k.shape[-2] < k.shape[-1]:
        v, s, u = leading_triples(k.mT, count)
        return u, s, v
    v = torch.linalg.eigh(k.mT @ k)[1][..., -count:].flip(-1)
    # QR keeps u orthonormal where rounding loses the squares of small values
    u, r = torch.linalg.qr(k @ v)
    s = r.diagonal(dim1=-2, dim2=-1)
    return u * s.sign().add(0.5).sign()[..., None, :], s.abs(), v


def _by_squaring(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First singular triple by repeated squaring of the smaller Gram matrix.

    Each squaring doubles the logarithmic gap between the two largest eigenvalues.
    """
    tiny = torch.finfo(k.dtype).tiny
    # scale by the trace, of which the largest eigenvalue is at least 1/n: prevents underflow
    at_once = 4 if k.dtype == torch.float64 else 2
    power = torch.bmm(k.mT, k)
    for squaring in range(SQUARINGS):
        if squaring % at_once == 0:
            trace = power.diagonal(dim1=-2, dim2=-1).sum(-1)
            power = power / trace.clamp_(min=tiny)[..., None, None]
        power = torch.bmm(power, power)
    # all columns are multiples of the leading vector; the longest has the least rounding error
    length, longest = (t[..., None, None] for t in power.diagonal(dim1=-2, dim2=-1).max(-1))
    v = power.gather(-1, longest.expand(*power.shape[:-1], 1)) / length.clamp(min=tiny)
    v = v / torch.linalg.vector_norm(v, dim=-2, keepdim=True).clamp_(min=tiny)
    projection = torch.bmm(k, v)
    tau = torch.linalg.vector_norm(projection, dim=-2, keepdim=True)
    return tau[..., 0, 0], (projection / tau.clamp(min=tiny))[..., 0], v[..., 0]
