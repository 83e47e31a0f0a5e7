"""The findings of ``trn-plugin advise`` as a table, sentences and a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trn_plugin.evaluation.features import LABELS
from trn_plugin.evaluation.figures import new_figure, save_figure
from trn_plugin.evaluation.task_metric import table
from trn_plugin.experiments.advice import Findings
from trn_plugin.experiments.gradients import Interval

__all__ = ["findings_rows", "findings_table", "save_findings", "sentences", "undefined_taus"]

LEVELS = {
    LABELS: "labels",
    "output": "predictions, all shared",
    "output alone": "predictions, nothing shared",
}
MOST_PAIRS = 10
LEAST_BATCHES = 20
"""With fewer, the interval is unreliable: batches of a short training are not independent."""


def findings_rows(findings: Findings) -> list[dict]:
    """One row for each pair of tasks and level; None for an undefined number."""
    rows = []
    for number, (pair, cosines) in enumerate(findings.cosines.items()):
        at_stage = dict(zip(findings.stages, cosines, strict=True))
        for level, similarities in findings.similarities.items():
            found, cosine = similarities[number], at_stage.get(level)
            row = dict(a=pair[0], b=pair[1], level=LEVELS.get(level, level))
            row |= dict(tau=found.tau, chance=found.chance, N=found.n, d1=found.d1, d2=found.d2)
            row |= dict(
                cosine=cosine and cosine.mean,
                cosine_low=cosine and cosine.low,
                cosine_high=cosine and cosine.high,
                batches=cosine and cosine.count,
            )
            rows.append({key: _rounded(value) for key, value in row.items()})
    return rows


def _rounded(value):
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


def findings_table(rows: Sequence[Mapping]) -> str:
    """The rows of ``findings_rows`` as a text table."""
    header = ["pair", "level", "tau", "chance", "cosine of gradients", "95 % interval"]
    lines = []
    for row in rows:
        line = [f"{row['a']} - {row['b']}", row["level"]]
        line += ["-" if row[key] is None else f"{row[key]:.3f}" for key in ("tau", "chance")]
        undefined = "" if row["batches"] is None else "-"
        line.append(undefined if row["cosine"] is None else f"{row['cosine']:.3f}")
        low, high = row["cosine_low"], row["cosine_high"]
        lines.append([*line, "" if low is None else f"[{low:+.3f}, {high:+.3f}]"])
    return table(header, lines, left=(0, 1))


def undefined_taus(findings: Findings) -> list[str]:
    """Why taus are undefined, one line for each reason."""
    reasons: dict[str, dict[str, None]] = {}
    for level, similarities in findings.similarities.items():
        for found in similarities:
            if math.isnan(found.tau):
                reason = f"{found.note} (N = {found.n} pictures)"
                reasons.setdefault(reason, {})[LEVELS.get(level, level)] = None
    return [f"tau of {', '.join(levels)} is {reason}." for reason, levels in reasons.items()]


def sentences(
    stages: Sequence[str], cosines: Mapping[tuple[str, str], Sequence[Interval]]
) -> list[str]:
    """For each pair of tasks, the stages where the gradients agree and where they conflict.

    They agree where the 95 % interval of the mean cosine is above 0, and conflict where it is
    below. With fewer than ``LEAST_BATCHES`` batches, the sentence only reports that.

    Args:
        stages: names of the stages, in order.
        cosines: one interval for each stage, by pair of tasks.
    """
    lines = []
    for (a, b), intervals in cosines.items():
        batches = max(interval.count for interval in intervals)
        if batches < LEAST_BATCHES:
            lines.append(
                f"{a} and {b}: too few batches: {batches} gave gradients of both tasks, expected "
                f"at least {LEAST_BATCHES}; train longer with --epochs or --steps."
            )
            continue
        agree = [stage for stage, i in zip(stages, intervals, strict=True) if i.low > 0]
        conflict = [stage for stage, i in zip(stages, intervals, strict=True) if i.high < 0]
        parts = [f"their gradients agree at {', '.join(agree)}"] if agree else []
        parts += [f"point against each other at {', '.join(conflict)}"] if conflict else []
        text = " and ".join(parts) or "their gradients neither agree nor conflict"
        lines.append(
            f"{a} and {b}: {text} ({len(agree) + len(conflict)} of {len(intervals)} mean cosines "
            f"differ from 0, 95 % intervals over {batches} batches)."
        )
    return lines


def save_findings(path: str, findings: Findings, title: str) -> None:
    """Plot tau and the gradient cosines of the first pairs over the stages, as a PNG file."""
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    places = range(1, len(findings.stages) + 1)
    for number, (pair, intervals) in enumerate([*findings.cosines.items()][:MOST_PAIRS]):
        name, color = f"{pair[0]} - {pair[1]}", f"C{number}"
        of_stages = [findings.similarities[stage][number] for stage in findings.stages]
        left.plot(places, [s.tau for s in of_stages], "o-", color=color, label=name)
        left.plot(places, [s.chance for s in of_stages], ":", color=color, lw=1)
        labels = findings.similarities[LABELS][number].tau
        left.axhline(labels, color=color, ls="--", lw=1)
        means = [interval.mean for interval in intervals]
        bars = [interval.high - interval.mean for interval in intervals]
        right.errorbar(places, means, yerr=bars, fmt="o-", color=color, capsize=3, label=name)
    left.set_title("τ of features, nothing shared (dashed: labels, dotted: chance)", fontsize=8)
    left.set_ylim(0, 1.05)
    right.set_title("cosine of the tasks' gradients, all shared (95 % interval)", fontsize=8)
    right.axhline(0, color="#222222", lw=1)
    for panel in (left, right):
        panel.set_xticks(list(places), findings.stages, fontsize=7, rotation=30)
        panel.tick_params(axis="y", labelsize=7)
        panel.grid(alpha=0.3)
    right.legend(fontsize=7)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)
