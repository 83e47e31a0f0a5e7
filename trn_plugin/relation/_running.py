"""Running second moments of two feature vectors, and their largest canonical correlation."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["canonical_pair", "centre", "sum_over_ranks", "working_dtype", "world_size"]


def working_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it: a factor of a rank-deficient moment matrix needs it."""
    return torch.float32 if device.type == "mps" else torch.float64


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Add up ``x`` over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def centre(features: list[Tensor], mask: Tensor) -> tuple[list[Tensor], Tensor]:
    """Subtract the mean over the samples of ``mask`` on all ranks; other rows become 0.

    Args:
        features (list[Tensor]): (N, d_i) each.
        mask (Tensor): (N,) bool.

    Returns:
        The centred features in the working dtype, and the number of samples (0-d, same dtype).
    """
    dtype = working_dtype(mask.device)
    keep = mask[:, None]
    features = [torch.where(keep, f.detach().to(dtype), 0.0) for f in features]
    sums = torch.cat([mask.sum().to(dtype)[None], *(f.sum(0) for f in features)])
    count, *sums = sum_over_ranks(sums).split([1, *(f.shape[1] for f in features)])
    count = count[0]
    means = [s / count.clamp(min=1) for s in sums]
    return [torch.where(keep, f - m, 0.0) for f, m in zip(features, means, strict=True)], count


def canonical_pair(
    s11: Tensor, s12: Tensor, s22: Tensor, shrinkage: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Largest canonical correlation of moments, and its pair of canonical vectors.

    Each side is shrunk relative to its trace, :math:`S_{ii} + \epsilon\,\mathrm{tr}(S_{ii})/d_i
    \, I`, and whitened by its Cholesky factor; a and b are the same as with the paper's inverse
    square roots (Eq. 10, 15), for any whitening gives the same canonical vectors.

    Args:
        s11 (Tensor): (d1, d1) moments of one side.
        s12 (Tensor): (d1, d2) cross moments.
        s22 (Tensor): (d2, d2) moments of the other side.
        shrinkage (float): epsilon above; what keeps the factor of a singular matrix finite.

    Returns:
        tau (0-d), a (d1,), b (d2,) with a' (S11 + ..) a = 1. Where the sides have no
        correlation at all, tau, a and b are 0.
    """
    dtype = working_dtype(s12.device)
    s11, s12, s22 = s11.to(dtype), s12.to(dtype), s22.to(dtype)
    l1, unit1 = _factor(s11, shrinkage)
    l2, unit2 = _factor(s22, shrinkage)
    scaled = s12 / (unit1[:, None] * unit2)
    whitened = torch.linalg.solve_triangular(l1, scaled, upper=False)
    whitened = torch.linalg.solve_triangular(l2, whitened.mT, upper=False).mT
    u, s, vh = torch.linalg.svd(whitened, full_matrices=False)
    tau = s[0].clamp(max=1.0)
    related = tau > 64 * torch.finfo(tau.dtype).eps
    a = torch.linalg.solve_triangular(l1.mT, u[:, :1], upper=True)[:, 0] / unit1
    b = torch.linalg.solve_triangular(l2.mT, vh[:1].mT, upper=True)[:, 0] / unit2
    zero = torch.zeros_like(tau)
    return (
        torch.where(related, tau, zero),
        torch.where(related, a, 0.0),
        torch.where(related, b, 0.0),
    )


def _factor(s: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Cholesky factor of S / size + epsilon I, and sqrt(size), where size = tr(S) / d."""
    size = s.diagonal().mean()
    unit = torch.where(size > 0, size.sqrt(), torch.ones_like(size))
    scaled = s / unit / unit
    scaled.diagonal().add_(shrinkage)
    return torch.linalg.cholesky_ex(scaled)[0], unit.expand(len(s))
