"""The Pareto front of several solutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["pareto_front"]


def pareto_front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each point is on the Pareto front, where smaller coordinates are better.

    A point is on the front if no other point is as good in every coordinate and better in one.
    Points with a NaN coordinate are ignored.

    Args:
        costs: (N, d).
    """
    points = np.asarray(costs, dtype=float).reshape(len(costs), -1)
    known = ~np.isnan(points).any(1)
    as_good = (points[:, None] <= points[None]).all(2)  # whether i is as good as j
    better = (points[:, None] < points[None]).any(2)
    dominated = (as_good & better & known[:, None]).any(0)
    return (known & ~dominated).tolist()
