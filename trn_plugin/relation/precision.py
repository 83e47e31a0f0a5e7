"""Where float32 is enough: every rule about the precision of covariances and solutions."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from trn_plugin.relation._ranks import world_size
from trn_plugin.relation._whitening import normalised

__all__ = [
    "Tolerance",
    "checks_due",
    "exceeds_float32",
    "full_precision",
    "has_independent_features",
    "on_host",
    "product_dtype",
    "sums_of_squares",
    "tolerance",
    "working_dtype",
]

# Width of a joint covariance from which products on a CPU are float32: below, calls cost more
# than arithmetic.
WIDE = 192
# Share of a task's variance in one direction above which the rest drowns in float32 rounding.
DOMINANT = 0.55
# Sum of squares of a task's features below which float32 squares underflow.
SMALLEST = 1e-24
# Least share of a feature's variance that the other features may leave unexplained: below, the
# rounding of float32 covariances is as large as what is left.
INDEPENDENT = 5e-3
# Fewest samples of a batch that a float32 solution is accepted for: a smaller batch may be unlike
# the covariances, and its gradient sensitive.
FEWEST_SAMPLES = 32


class Tolerance:
    """How accurate the gradient of an iterative solution is, and how long to try.

    Attributes:
        gradient (float): relative error.
        iterations (int): before the exact solution is taken instead.
    """

    def __init__(self, gradient: float, iterations: int) -> None:
        self.gradient = gradient
        self.iterations = iterations


_TOLERANCES = {torch.float64: Tolerance(1e-9, 24), torch.float32: Tolerance(6e-4, 12)}


def tolerance(dtype: torch.dtype) -> Tolerance:
    """Of an iterative solution for features of this dtype."""
    return _TOLERANCES[torch.float64 if dtype == torch.float64 else torch.float32]


def on_host(device: torch.device) -> bool:
    """Whether reading a value costs nothing; elsewhere it would make the device wait."""
    return device.type == "cpu"


def working_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it: the factor of a singular covariance needs it."""
    return torch.float32 if device.type == "mps" else torch.float64


def full_precision(device: torch.device) -> AbstractContextManager:
    """Context with autocast off."""
    known = torch.amp.is_autocast_available(device.type)
    if not known or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def product_dtype(features: torch.dtype, covariance: Tensor, is_precise: bool) -> torch.dtype:
    """Dtype in which covariances of the features are computed and kept.

    float32 for wide features on the host, unless ``is_precise``, the last finding of
    :func:`has_independent_features`. On several processes always float64: the finding depends on
    a batch, and theirs differ.
    """
    wide = covariance.shape[-1] >= WIDE
    if on_host(covariance.device) and wide and world_size() == 1 and not is_precise:
        return torch.promote_types(features, torch.float32)
    return working_dtype(covariance.device)


def sums_of_squares(x: Tensor, columns: list[slice]) -> Tensor:
    """(B, T) sums of squares of each task's columns of (B, N, D) features, without a copy."""
    norms = [torch.linalg.vector_norm(x[..., task], dim=(1, 2)) for task in columns]
    return torch.stack(norms, 1).square_()


def exceeds_float32(x: Tensor, squares: Tensor, columns: list[slice]) -> bool:
    """Whether float32 cannot hold the covariance of a batch; on the host only.

    Most of a task's variance is in one direction, or its squares are too small.

    Args:
        x (Tensor): (B, N, D) centred features.
        squares (Tensor): (B, T), see :func:`sums_of_squares`.
        columns (list[slice]): of each of the T tasks.
    """
    for rows, totals in zip(x.unbind(), squares.tolist(), strict=True):
        for task, total in zip(columns, totals, strict=True):
            if total < SMALLEST:
                return True
            own, unit = rows[:, task], total**-0.5
            # two power iterations are enough where one direction dominates
            variate = torch.arange(1, len(own) + 1, dtype=own.dtype)
            for _ in range(2):
                direction = torch.mv(own.mT, variate).mul_(unit)
                variate = torch.mv(own, direction).mul_(unit)
            if float(variate.dot(variate)) > DOMINANT * float(direction.dot(direction)):
                return True
    return False


def has_independent_features(s: Tensor) -> bool:
    """Whether no feature is nearly a linear combination of others, by covariances (B, d, d)."""
    scaled = normalised(s.float(), 1e-5)[0]
    lower, info = torch.linalg.cholesky_ex(scaled)
    inverse = torch.cholesky_inverse(lower)
    inflation = inverse.diagonal(dim1=-2, dim2=-1) * scaled.diagonal(dim1=-2, dim2=-1)
    return not info.any() and bool((inflation <= 1 / INDEPENDENT).all())


def checks_due(batches: int, momentum: float) -> bool:
    """Whether :func:`has_independent_features` is asked after so many batches."""
    return batches % max(1, min(25, int(0.25 / (1 - momentum)))) == 0
