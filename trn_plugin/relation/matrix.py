"""Task similarity of every pair of several tasks, offline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trn_plugin.relation._features import check_features, check_finite, orthonormal_basis

__all__ = ["task_similarity_matrix"]


def task_similarity_matrix(features: Sequence[Tensor]) -> Tensor:
    """:func:`task_similarity` of every pair of several tasks (Fig. 3).

    Each task is whitened once, and all pairs are blocks of one matrix product; among tasks of one
    feature each it is the matrix of absolute correlations, without any decomposition.

    Args:
        features (Sequence[Tensor]): (N, d_t) by task, of the same samples; d_t are free.

    Returns:
        Tensor: (T, T) float64, symmetric, in [0, 1]; 1 on the diagonal, 0 in the row of a task
        without variance.

    Raises:
        ValueError: shapes that do not fit, or a value that is not finite.

    Example:
        >>> import torch
        >>> x = torch.randn(100, 3)
        >>> task_similarity_matrix([x, x[:, :1], -x]).round(decimals=6).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    for index, f in enumerate(features):
        check_features(features[0], f, ("features[0]", f"features[{index}]"))
        check_finite(f, f"features[{index}]")
    bases = [orthonormal_basis(f)[0].T for f in features]  # rows: a scalar task's is contiguous
    joint = torch.cat(bases)
    products = joint @ joint.T
    starts = [0]
    for basis in bases:
        starts.append(starts[-1] + len(basis))
    by_shape: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, first in enumerate(bases):
        for j in range(i + 1, len(bases)):
            by_shape.setdefault((len(first), len(bases[j])), []).append((i, j))
    similarities = torch.diag(products.new_tensor([float(len(basis) > 0) for basis in bases]))
    for (d1, d2), pairs in by_shape.items():
        if min(d1, d2) == 0:
            continue
        i, j = torch.tensor(pairs).T
        rows = torch.tensor(starts)[i][:, None, None] + torch.arange(d1)[:, None]
        columns = torch.tensor(starts)[j][:, None, None] + torch.arange(d2)
        blocks = products[rows.to(products.device), columns.to(products.device)]
        largest = blocks.abs().flatten() if d1 == d2 == 1 else torch.linalg.svdvals(blocks)[:, 0]
        similarities[i, j] = similarities[j, i] = largest.clamp(max=1.0)
    return similarities
