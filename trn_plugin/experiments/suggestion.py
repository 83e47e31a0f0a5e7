"""From the cosines of the tasks' gradients to the stages that they should share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trn_plugin.experiments.gradients import Interval

__all__ = ["Suggestion", "suggest"]


@dataclass(frozen=True)
class Suggestion:
    """Stages to share.

    Attributes:
        shared_stages (int | str | dict): as ``TimmTrunk`` takes it.
        reasons (tuple[str, ...]): sentences.
        sure (str): how sure it is, a sentence.
    """

    shared_stages: int | str | dict[str, int]
    reasons: tuple[str, ...]
    sure: str


def suggest(
    tasks: Sequence[str],
    stages: Sequence[str],
    cosines: Mapping[tuple[str, str], Sequence[Interval]],
) -> Suggestion:
    """Share a stage unless the tasks' gradients there point against each other.

    Stage by stage from the first: while two of the tasks that still share have a mean cosine whose
    95 % interval is below 0, the task with the lowest sum of such cosines goes its own way.

    Args:
        tasks: their names.
        stages: the stages' names, in order.
        cosines: by pair of tasks, one interval a stage.
    """
    shared = dict.fromkeys(tasks, 0)
    together, reasons = list(tasks), []
    for place, stage in enumerate(stages):
        against = _conflicts(cosines, together, place)
        while against:
            sums = {t: sum(i.mean for pair, i in against.items() if t in pair) for t in together}
            leaving = min(together, key=lambda task: sums[task])
            (a, b), interval = min(
                ((p, i) for p, i in against.items() if leaving in p), key=lambda x: x[1].mean
            )
            reasons.append(
                f"The gradients of {a} and {b} point against each other at stage {place + 1} "
                f"({stage}): mean cosine {_text(interval)}. {leaving} does not share it."
            )
            together.remove(leaving)
            against = _conflicts(cosines, together, place)
        if len(together) < 2:
            break
        for task in together:
            shared[task] = place + 1
    if not reasons:
        reasons.append(
            f"At none of the {len(stages)} stages do the gradients of two tasks point against "
            "each other."
        )
    last = len(stages)
    counts = set(shared.values())
    value: int | str | dict[str, int] = shared
    if len(counts) == 1:
        value = "all" if counts == {last} else counts.pop()
    return Suggestion(value, tuple(reasons), _sure(cosines))


def _conflicts(
    cosines: Mapping[tuple[str, str], Sequence[Interval]], together: Sequence[str], place: int
) -> dict[tuple[str, str], Interval]:
    return {
        pair: intervals[place]
        for pair, intervals in cosines.items()
        if set(pair) <= set(together) and intervals[place].high < 0
    }


def _sure(cosines: Mapping[tuple[str, str], Sequence[Interval]]) -> str:
    every = [interval for intervals in cosines.values() for interval in intervals]
    known = [i for i in every if not math.isnan(i.low)]
    told = [i for i in known if i.low > 0 or i.high < 0]
    if not known:
        return "Not sure at all: too few batches gave a gradient of every task."
    grade = "Sure" if len(told) == len(every) else "Fairly sure" if told else "Not sure"
    return (
        f"{grade}: {len(told)} of {len(every)} mean cosines differ from 0 (95 % intervals over "
        f"{min(i.count for i in known)} batches)."
    )


def _text(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
