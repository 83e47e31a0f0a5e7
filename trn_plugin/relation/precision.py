"""Rules of precision and speed: which dtype is enough where, and from which width what pays."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from trn_plugin.ranks import world_size
from trn_plugin.relation._whitening import normalised

WIDE = 192  # of a joint covariance: from here arithmetic on a CPU costs more than calls
ITERATED = 96  # width of both tasks from which Davidson iterations beat a decomposition
DOMINANT = 0.55  # share of variance in one direction: above, float32 rounding hides the rest
SMALLEST = 1e-24  # sum of squares of a task's features: below, float32 squares underflow
INDEPENDENT = 5e-3  # share of variance that others leave unexplained: below is float32 rounding


def tolerance(dtype: torch.dtype) -> tuple[float, int]:
    """Relative error of the gradient for features of a dtype, and iterations to get there."""
    return (1e-9, 24) if dtype == torch.float64 else (6e-4, 12)


def is_related(tau: Tensor) -> Tensor:
    """Whether largest correlations are more than rounding of their dtype."""
    return tau > 64 * torch.finfo(tau.dtype).eps


def on_host(device: torch.device) -> bool:
    """Whether reading a value costs nothing; elsewhere it would make the device wait."""
    return device.type == "cpu"


def is_in_place(covariance: Tensor) -> bool:
    """Whether covariances are updated in place: wide joint ones, on the host, of one process."""
    return on_host(covariance.device) and covariance.shape[-1] >= WIDE and world_size() == 1


def iterates(d1: int, d2: int) -> bool:
    """Whether a pair of tasks is wide enough for Davidson iterations on the host."""
    return min(d1, d2) >= ITERATED


def working_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it: the factor of a singular covariance needs it."""
    return torch.float32 if device.type == "mps" else torch.float64


def full_precision(device: torch.device) -> AbstractContextManager:
    """Context with autocast off."""
    kind = device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_on else nullcontext()


def product_dtype(features: torch.dtype, covariance: Tensor, is_precise: Tensor) -> torch.dtype:
    """Dtype of the covariances of features: float32 for wide ones on the host.

    float64 if ``is_precise``, the last finding of :func:`has_independent_features`.
    """
    if is_in_place(covariance) and not is_precise:
        return torch.promote_types(features, torch.float32)
    return working_dtype(covariance.device)


def exceeds_float32(x: Tensor, squares: Tensor, columns: list[slice]) -> bool:
    """Whether one direction of a task has most of its variance, or its squares (B, D) are small."""
    for rows, own_squares in zip(x, squares, strict=True):
        for task in columns:
            own, total = rows[:, task], float(own_squares[task].sum())
            if total < SMALLEST:
                return True
            unit = total**-0.5
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
