r"""Algorithm 1, the online learning of a task relation layer, up to its last two lines.

.. code-block:: text

     1- 3  S11 <- I, S22 <- I, S12 <- 0         RunningCovariance; I by start='identity' only
     6- 7  f_i <- F_i - mean(F_i)               features of a mini-batch
     8-10  C_ij <- f_i^T f_j                    covariances of the mini-batch
    11-13  S_ij <- m S_ij + (1 - m) C_ij        running covariances
    14     tau <- max singular(S11^-1/2 S12 S22^-1/2)    similarities, solvers
    15     return tau                           gradient
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trn_plugin.relation import precision
from trn_plugin.relation.covariance import CentredBatch, RunningCovariance, centre

__all__ = ["update"]

# Entries between the rows of the features: rows a power of two apart share cache sets.
PADDING = 16


def update(
    S: Sequence[RunningCovariance],
    F: Sequence[Tensor],
    m: float,
    masks: Tensor | None,
    check: Callable[[list[CentredBatch]], Tensor | None],
) -> list[tuple[CentredBatch, Tensor | None]]:
    """Lines 6 to 13. Nothing changes before the features of all tasks are checked.

    Args:
        S (Sequence[RunningCovariance]): of sets of tasks.
        F (Sequence[Tensor]): (N, d) features of each task.
        m (float): momentum.
        masks (Tensor, optional): (N, T) bool, which samples have a label.
        check (Callable): gives 0-d bool, whether all features are finite; None where the host
            has seen that they are.

    Returns:
        For each covariance the batch, and which sets took it in, see
        :meth:`RunningCovariance.update`.
    """
    C = _centred_batches(S, F, masks)
    finite = check(C)
    taken = [s.update(c, m, finite) for s, c in zip(S, C, strict=True)]
    if finite is not None:
        for c in C:
            c.x = torch.where(finite, c.x, 0.0)
    return list(zip(C, taken, strict=True))


def _centred_batches(
    sources: Sequence[RunningCovariance], features: Sequence[Tensor], masks: Tensor | None
) -> list[CentredBatch]:
    """Lines 6 to 10: features less their mean, and their products.

    Args:
        sources (Sequence[RunningCovariance]): whose sets of tasks.
        features (Sequence[Tensor]): (N, d) of each task.
        masks (Tensor, optional): (N, T) bool, which samples have a label.
    """
    device = features[0].device
    given = features[0].dtype
    for f in features[1:]:
        given = torch.promote_types(given, f.dtype)
    dtypes = [source.product_dtype(given) for source in sources]
    single = precision.on_host(device) and all(dtype == torch.float32 for dtype in dtypes)
    joint = _side_by_side(features, torch.float32 if single else precision.working_dtype(device))
    batches = []
    for source, dtype in zip(sources, dtypes, strict=True):
        mask = None if masks is None else masks[:, source.tasks].all(2).T
        batch = centre(source.gather(joint), mask, dtype)
        if source.exceeds_float32(batch):
            double = _side_by_side(features, precision.working_dtype(device))
            batch = centre(source.gather(double), mask, double.dtype)
            source.exceeds_float32(batch)
        source.prepare(batch)
        batches.append(batch)
    return batches


def _side_by_side(features: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """(N, all) copy."""
    if not precision.on_host(features[0].device):
        return torch.cat([f.detach() for f in features], 1).to(dtype)
    widths = [f.shape[1] for f in features]
    padded = features[0].new_empty(len(features[0]), sum(widths) + PADDING, dtype=dtype)
    joint = padded[:, :-PADDING]
    for own, f in zip(joint.split(widths, 1), features, strict=True):
        own.copy_(f.detach())
    return joint
