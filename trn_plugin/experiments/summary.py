"""Summary of a grid's runs: one line for each cell, and the Pareto front."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trn_plugin.directions import rule_of
from trn_plugin.errors import ConfigError
from trn_plugin.experiments.cost import Cost

__all__ = ["COSTS", "Cell", "front", "markdown", "measures_of", "pareto_front", "summary_rows"]

COSTS = {"parameters": "parameters (k)", "latency_ms": "latency (ms)"}
"""The costs that accuracy is plotted over, with their axis labels."""


@dataclass
class Cell:
    """A cell of the grid.

    Attributes:
        name (str): its settings in words.
        cost (Cost): cost of its model.
        values (dict[str, list[float]]): values of each metric, one for each seed.
    """

    name: str
    cost: Cost
    values: dict[str, list[float]] = field(default_factory=dict)

    def mean(self, key: str) -> float:
        """Mean of a metric over the seeds; NaN without values."""
        found = self.values.get(key)
        return statistics.fmean(found) if found else math.nan

    def spread(self, key: str) -> float:
        """Standard deviation over the seeds; 0 with one seed."""
        found = self.values.get(key, ())
        return statistics.stdev(found) if len(found) > 1 else 0.0


def measures_of(keys: Sequence[str], chosen: Sequence[str] = ()) -> list[str]:
    """The metrics to compare: by default each task's first metric with a known direction.

    Args:
        keys: names of all metrics, in order.
        chosen: names given by the user instead.

    Raises:
        ConfigError: a chosen metric was not measured, or none has a known direction.
    """
    known = [key for key in keys if rule_of(key)]
    for key in chosen:
        if key not in known:
            raise ConfigError(f"--metrics: expected some of {', '.join(known)}, found {key!r}")
    first: dict[str, str] = {}
    for key in known:
        first.setdefault(key.rpartition("/")[0], key)
    found = list(chosen or first.values())
    if not found:
        raise ConfigError(f"no metric has a known direction, among {', '.join(keys) or 'none'}")
    return found


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


def front(cells: Sequence[Cell], measure: str, cost: str) -> list[bool]:
    """Whether each cell is on the Pareto front of a metric's mean and one cost."""
    sign = 1 if rule_of(measure) == "less" else -1
    return pareto_front([(getattr(c.cost, cost), sign * c.mean(measure)) for c in cells])


def summary_rows(cells: Sequence[Cell], measures: Sequence[str]) -> list[dict]:
    """One row of plain values for each cell."""
    rows = [
        dict(
            cell=cell.name,
            parameters=cell.cost.parameters,
            multiplications=cell.cost.multiplications,
            latency_ms=round(cell.cost.latency_ms, 3),
            device=cell.cost.device,
            seeds=max(len(cell.values.get(measure, ())) for measure in measures),
        )
        for cell in cells
    ]
    for row, cell in zip(rows, cells, strict=True):
        for measure in measures:
            mean = cell.mean(measure)
            row[measure] = None if math.isnan(mean) else round(mean, 4)
            row[f"{measure} std"] = round(cell.spread(measure), 4)
    for cost in COSTS:
        fronts = {measure: front(cells, measure, cost) for measure in measures}
        for place, row in enumerate(rows):
            best = [measure for measure in measures if fronts[measure][place]]
            row[f"front over {cost.removesuffix('_ms')}"] = " ".join(best)
    return rows


def markdown(rows: Sequence[Mapping], measures: Sequence[str]) -> str:
    """A Markdown table of means, standard deviations over the seeds, and Pareto fronts."""
    fronts = [key for key in rows[0] if key.startswith("front over ")]
    titles = [f"{measure} ({rule_of(measure)} is better)" for measure in measures]
    header = ["", "seeds", "parameters", "M mult.", "latency (ms)", *titles, *fronts]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        line = [row["cell"], str(row["seeds"]), f"{row['parameters']:,}"]
        line += [f"{row['multiplications'] / 1e6:.2f}", f"{row['latency_ms']:.2f}"]
        for measure in measures:
            mean, spread = row[measure], f" ± {row[f'{measure} std']:.2f}"
            line.append("-" if mean is None else f"{mean:.2f}{spread if row['seeds'] > 1 else ''}")
        lines.append([*line, *(row[key].replace(" ", ", ") for key in fronts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
