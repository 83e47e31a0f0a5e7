"""The cosines of the tasks' gradients, summarised in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trn_plugin.experiments.gradients import Interval

__all__ = ["conflicts", "sentences"]


def conflicts(intervals: Sequence[Interval]) -> list[int]:
    """Indices of the stages where the 95 % interval of the mean cosine is below 0."""
    return [place for place, interval in enumerate(intervals) if interval.high < 0]


def sentences(
    stages: Sequence[str], cosines: Mapping[tuple[str, str], Sequence[Interval]]
) -> list[str]:
    """For each pair of tasks, the stages where the gradients agree and where they conflict.

    Args:
        stages: names of the stages, in order.
        cosines: one interval for each stage, by pair of tasks.
    """
    lines = []
    for (a, b), intervals in cosines.items():
        known = [i for i in intervals if not math.isnan(i.low)]
        if not known:
            lines.append(f"{a} and {b}: too few batches with gradients of both tasks.")
            continue
        agree = [stages[k] for k, i in enumerate(intervals) if i.low > 0]
        against = [stages[k] for k in conflicts(intervals)]
        parts = [f"their gradients agree at {', '.join(agree)}"] if agree else []
        parts += [f"point against each other at {', '.join(against)}"] if against else []
        text = f"{a} and {b}: {' and '.join(parts) or 'their gradients neither agree nor conflict'}"
        lines.append(
            f"{text} ({len(agree) + len(against)} of {len(intervals)} mean cosines differ from 0, "
            f"95 % intervals over {min(i.count for i in known)} batches)."
        )
    return lines
