r"""Algorithm 1, the online learning of a task relation layer.

.. code-block:: text

     1- 3  S11 <- I, S22 <- I, S12 <- 0         RunningCovariance; I by start='identity' only
     6- 7  f_i <- F_i - mean(F_i)               features of a mini-batch
     8-10  C_ij <- f_i^T f_j                    covariances of the mini-batch
    11-13  S_ij <- m S_ij + (1 - m) C_ij        running covariances
    14     tau <- max singular(S11^-1/2 S12 S22^-1/2)    similarities, solvers
    15     return tau                           ClosedFormGradient
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trn_plugin.relation import precision
from trn_plugin.relation.covariance import Batch, Pairs, RunningCovariance
from trn_plugin.relation.similarities import Similarity
from trn_plugin.relation.solvers import davidson
from trn_plugin.relation.solvers.davidson import Update

__all__ = ["Step", "iterate", "similarities", "update"]


@dataclass
class Step:
    """Lines 6 to 15 for P pairs of equal widths."""

    S: RunningCovariance
    pairs: Pairs
    C: Batch | None = None  # None in evaluation
    updated: Tensor | None = None  # (B,) bool, which sets of tasks were updated; None for all
    solution: Sequence[Tensor] | None = None  # of Similarity.solve; tau (P,) is first


def update(
    S: Sequence[RunningCovariance],
    F: Sequence[Tensor],
    m: float,
    masks: Tensor | None,
    check: Callable[[list[Tensor]], Tensor | None],
) -> list[Step]:
    """Lines 6 to 13 for features (N, d) of T tasks; ``masks`` (N, T) bool says which have a label.

    ``check`` tells whether sums of squares are finite: a 0-d bool, or None for yes.
    """
    F = torch.cat(tuple(F), 1)
    C = [s.batch(F, masks) for s in S]
    with torch.no_grad():
        finite = check([c.squares for c in C])
        updated = [s.update(c, m, finite) for s, c in zip(S, C, strict=True)]
        if finite is not None:
            for c in C:
                c.x = torch.where(finite, c.x, 0.0)
    steps = zip(S, C, updated, strict=True)
    return [Step(s, pairs, c, which) for s, c, which in steps for pairs in s.pairs]


@torch.no_grad()
def iterate(step: Step, m: float, epsilon: float, dtype: torch.dtype) -> bool:
    """Line 14 for a pair of wide tasks on a CPU; returns whether the exact solver was needed."""
    S, pairs = step.S, step.pairs
    x = step.C.x[pairs.sets]
    if x.shape[2] != sum(pairs.widths):
        x = torch.cat(pairs.take(step.C.x), 2)
    updated = step.updated is None or bool(pairs.of_sets(step.updated))
    update = Update(x[0], m, updated, int(pairs.of_sets(S.batches)), dtype)
    covariances = pairs.covariances(S.covariance)
    step.solution, is_exact = davidson.solve(pairs.state, covariances, epsilon, update)
    return is_exact


@torch.no_grad()
def similarities(steps: Sequence[Step], similarity: Similarity, epsilon: float) -> None:
    """Line 14 for the steps without a solution; pairs of equal widths are solved together."""
    by_widths = defaultdict(list)
    for step in steps:
        if step.solution is None:
            dtype = precision.working_dtype(step.S.covariance.device)
            S = [s.to(dtype) for s in step.pairs.covariances(step.S.covariance)]
            by_widths[step.pairs.widths].append((step, S))
    for found in by_widths.values():
        if len(found) == 1:
            found[0][0].solution = similarity.solve(*found[0][1], epsilon)
            continue
        S = map(torch.cat, zip(*(own for _, own in found), strict=True))
        counts = [len(step.pairs.indices) for step, _ in found]
        parts = (tensor.split(counts) for tensor in similarity.solve(*S, epsilon))
        for (step, _), *part in zip(found, *parts, strict=True):
            step.solution = part
