"""Task similarity of every pair of several tasks, offline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from trn_plugin.relation._features import check_features, check_finite, orthonormal_basis

__all__ = ["task_similarity_matrix"]


def task_similarity_matrix(features: Sequence[Tensor]) -> Tensor:
    """:func:`task_similarity` of every pair of several tasks (Fig. 3).

    Each task is whitened once, and all pairs are blocks of one matrix product.

    Args:
        features (Sequence[Tensor]): (N, d_t) by task, of the same samples; d_t are free.

    Returns:
        Tensor: (T, T) float64, symmetric, in [0, 1]; 1 on the diagonal, 0 in the row of a task
        without variance.

    Raises:
        ValueError: shapes that do not fit, or a value that is not finite.
    """
    for index, f in enumerate(features):
        check_features(features[0], f, ("features[0]", f"features[{index}]"))
        check_finite(f, f"features[{index}]")
    bases = [orthonormal_basis(f)[0].T for f in features]  # rows: a scalar task's is contiguous
    joint, ranks = torch.cat(bases), [len(basis) for basis in bases]
    rows = (joint @ joint.T).split(ranks)
    blocks = [own.split(ranks, 1) for own in rows]
    similarities = torch.diag(joint.new_tensor([float(rank > 0) for rank in ranks]))
    for i, j in combinations(range(len(bases)), 2):
        block = blocks[i][j]
        if block.numel() > 0:
            tau = block.abs() if block.numel() == 1 else torch.linalg.svdvals(block).amax()
            similarities[i, j] = similarities[j, i] = tau.clamp(max=1.0)
    return similarities
