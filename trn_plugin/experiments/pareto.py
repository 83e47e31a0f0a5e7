"""Which of several solutions none of the others beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["pareto_front"]


def pareto_front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each point is on the Pareto front, all coordinates being better when smaller.

    A point is on the front if no other is as good in every coordinate and better in one. A point
    with a coordinate that is NaN is not on it, and beats no other.

    Args:
        costs: (N, d).
    """
    points = np.asarray(costs, dtype=float).reshape(len(costs), -1)
    known = ~np.isnan(points).any(1)
    as_good = (points[:, None] <= points[None]).all(2)  # whether i is as good as j
    better = (points[:, None] < points[None]).any(2)
    beaten = (as_good & better & known[:, None]).any(0)
    return (known & ~beaten).tolist()
