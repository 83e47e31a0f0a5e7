"""Which dtype is precise enough, and from which width a faster algorithm pays."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from trn_plugin.ranks import world_size
from trn_plugin.relation._whitening import normalised

WIDE = 192  # width of a joint covariance from which a CPU spends more on arithmetic than on calls
ITERATED = 96  # width of both tasks from which Davidson iterations beat a decomposition
DOMINANT = 0.55  # above this share of variance in one direction, float32 rounding hides the others
SMALLEST = 1e-24  # sum of squares of a task's features below which float32 squares underflow
INDEPENDENT = 5e-3  # unexplained share of a feature's variance that float32 rounding can hide


def tolerance(dtype: torch.dtype) -> tuple[float, int]:
    """Largest relative error of the gradient for features of a dtype, and most iterations."""
    return (1e-9, 24) if dtype == torch.float64 else (6e-4, 12)


def is_related(tau: Tensor) -> Tensor:
    """Whether correlations exceed the rounding error of their dtype."""
    return tau > 64 * torch.finfo(tau.dtype).eps


def on_host(device: torch.device) -> bool:
    """Whether the host can read values without synchronisation."""
    return device.type == "cpu"


def is_in_place(covariance: Tensor) -> bool:
    """Whether covariances are updated in place: wide ones, on the host, in one process."""
    return on_host(covariance.device) and covariance.shape[-1] >= WIDE and world_size() == 1


def iterates(d1: int, d2: int) -> bool:
    """Whether a pair of tasks is wide enough for Davidson iterations on the host."""
    return min(d1, d2) >= ITERATED


def working_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it: nearly singular covariances need it."""
    return torch.float32 if device.type == "mps" else torch.float64


def full_precision(device: torch.device) -> AbstractContextManager:
    """Context with autocast off."""
    kind = device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_on else nullcontext()


def product_dtype(features: torch.dtype, covariance: Tensor, is_precise: Tensor) -> torch.dtype:
    """Dtype of the covariances: float32 for wide ones on the host unless ``is_precise``.

    ``is_precise`` is True if the last :func:`has_independent_features` was False.
    """
    if is_in_place(covariance) and not is_precise:
        return torch.promote_types(features, torch.float32)
    return working_dtype(covariance.device)


def exceeds_float32(x: Tensor, squares: Tensor, columns: list[slice]) -> bool:
    """Whether one direction dominates a task's variance, or its squares (B, D) underflow."""
    for rows, own_squares in zip(x, squares, strict=True):
        for task in columns:
            own, total = rows[:, task], float(own_squares[task].sum())
            if total < SMALLEST:
                return True
            unit = total**-0.5
            # two power iterations suffice where one direction dominates
            variate = torch.arange(1, len(own) + 1, dtype=own.dtype)
            for _ in range(2):
                direction = torch.mv(own.mT, variate).mul_(unit)
                variate = torch.mv(own, direction).mul_(unit)
            if float(variate.dot(variate)) > DOMINANT * float(direction.dot(direction)):
                return True
    return False


def has_independent_features(s: Tensor) -> bool:
    """Whether all variance inflation factors are small: no feature is nearly a combination."""
    scaled = normalised(s.float(), 1e-5)[0]
    lower, info = torch.linalg.cholesky_ex(scaled)
    inverse = torch.cholesky_inverse(lower)
    inflation = inverse.diagonal(dim1=-2, dim2=-1) * scaled.diagonal(dim1=-2, dim2=-1)
    return not info.any() and bool((inflation <= 1 / INDEPENDENT).all())


def checks_due(batches: int, momentum: float) -> bool:
    """Whether :func:`has_independent_features` is checked after this many batches."""
    return batches % max(1, min(25, int(0.25 / (1 - momentum)))) == 0
