"""The findings of ``trn-plugin advise`` as a table and a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trn_plugin.evaluation.features import LABELS
from trn_plugin.evaluation.figures import new_figure, save_figure
from trn_plugin.evaluation.task_metric import table
from trn_plugin.experiments.advice import Findings

__all__ = ["findings_rows", "findings_table", "save_findings"]

LEVELS = {
    LABELS: "labels",
    "output": "predictions, all shared",
    "output alone": "predictions, nothing shared",
}
MOST_PAIRS = 10


def findings_rows(findings: Findings) -> list[dict]:
    """One row for each pair of tasks and level; None for an undefined number."""
    rows = []
    for number, pair in enumerate(findings.pairs):
        for level, similarities in findings.similarities.items():
            found = similarities[number]
            row = dict(a=pair[0], b=pair[1], level=LEVELS.get(level, level))
            row |= dict(tau=found.tau, chance=found.chance, N=found.n, d1=found.d1, d2=found.d2)
            row |= dict(cosine=math.nan, cosine_low=math.nan, cosine_high=math.nan, batches=None)
            if level in findings.stages:
                mean, low, high, count = findings.cosines[pair][findings.stages.index(level)]
                row |= dict(cosine=mean, cosine_low=low, cosine_high=high, batches=count)
            rows.append({k: _plain(v) for k, v in row.items()})
    return rows


def findings_table(rows: Sequence[dict]) -> str:
    """The rows of ``findings_rows`` as a text table."""
    header = ["pair", "level", "tau", "chance", "cosine of gradients", "95 % interval"]
    lines = []
    for row in rows:
        numbers = [_number(row[key], 3) for key in ("tau", "chance", "cosine")]
        numbers[2] = "" if row["batches"] is None else numbers[2]
        low, high = row["cosine_low"], row["cosine_high"]
        interval = "" if low is None else f"[{low:+.3f}, {high:+.3f}]"
        lines.append([f"{row['a']} - {row['b']}", row["level"], *numbers, interval])
    return table(header, lines, left=(0, 1))


def save_findings(path: str, findings: Findings, title: str) -> None:
    """Plot tau and the gradient cosines of the first pairs over the stages, as a PNG file."""
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    places = range(1, len(findings.stages) + 1)
    for number, pair in enumerate(findings.pairs[:MOST_PAIRS]):
        name, color = f"{pair[0]} - {pair[1]}", f"C{number}"
        of_stages = [findings.similarities[stage][number] for stage in findings.stages]
        left.plot(places, [s.tau for s in of_stages], "o-", color=color, label=name)
        left.plot(places, [s.chance for s in of_stages], ":", color=color, lw=1)
        labels = findings.similarities[LABELS][number].tau
        left.axhline(labels, color=color, ls="--", lw=1)
        intervals = findings.cosines[pair]
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


def _plain(value):
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
