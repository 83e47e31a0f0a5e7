"""Summary of a grid's runs: one line for each cell, and the Pareto front."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.directions import rule_of
from trn_plugin.experiments.cost import Cost
from trn_plugin.experiments.pareto import pareto_front

__all__ = ["COSTS", "Cell", "Measure", "front", "markdown", "measures_of", "summary_rows"]

COSTS = {"parameters": "parameters (k)", "latency_ms": "latency (ms)"}
"""The costs that accuracy is plotted over, with their axis labels."""


@dataclass(frozen=True)
class Measure:
    """A task's metric.

    Attributes:
        key (str): name of the metric, ``task/measure``.
        less (bool): whether less is better.
    """

    key: str
    less: bool


@dataclass
class Cell:
    """A cell of the grid.

    Attributes:
        name (str): its settings in words.
        cost (Cost): cost of its model.
        values (dict[str, list[float]]): values of each metric, one for each seed.
        epochs (int, optional): its epochs, if they differ between cells.
    """

    name: str
    cost: Cost
    values: dict[str, list[float]] = field(default_factory=dict)
    epochs: int | None = None

    def mean(self, key: str) -> float:
        """Mean of a metric over the seeds; NaN without values."""
        found = self.values.get(key)
        return statistics.fmean(found) if found else math.nan

    def spread(self, key: str) -> float:
        """Standard deviation over the seeds; 0 with one seed."""
        found = self.values.get(key, ())
        return statistics.stdev(found) if len(found) > 1 else 0.0


def measures_of(keys: Sequence[str], chosen: Sequence[str] = ()) -> list[Measure]:
    """The metrics to compare: by default each task's first metric with a known direction.

    Args:
        keys: names of all metrics, in order.
        chosen: names given by the user instead.

    Raises:
        ConfigError: a chosen metric was not measured, or no metric has a known direction.
    """
    for key in chosen:
        if key not in keys:
            known = ", ".join(k for k in keys if rule_of(k))
            raise ConfigError(f"--metrics: expected some of {known}, found {key!r}")
        if rule_of(key) is None:
            raise ConfigError(f"--metrics: unknown whether more or less of {key!r} is better")
    first: dict[str, str] = {}
    for key in keys if not chosen else ():
        if rule_of(key):
            first.setdefault(key.rpartition("/")[0], key)
    found = list(chosen) or list(first.values())
    if not found:
        raise ConfigError(f"no metric has a known direction, among {', '.join(keys) or 'none'}")
    return [Measure(key, rule_of(key) == "less") for key in found]


def front(cells: Sequence[Cell], measure: Measure, cost: str) -> list[bool]:
    """Whether each cell is on the Pareto front of a metric's mean and one cost."""
    sign = 1 if measure.less else -1
    return pareto_front([(getattr(c.cost, cost), sign * c.mean(measure.key)) for c in cells])


def summary_rows(cells: Sequence[Cell], measures: Sequence[Measure]) -> list[dict]:
    """One row of plain values for each cell."""
    on_front = {
        (measure.key, cost): front(cells, measure, cost) for measure in measures for cost in COSTS
    }
    rows = []
    for place, cell in enumerate(cells):
        row: dict = {"cell": cell.name}
        if cell.epochs is not None:
            row["epochs"] = cell.epochs
        row |= dict(
            parameters=cell.cost.parameters,
            multiplications=cell.cost.multiplications,
            latency_ms=round(cell.cost.latency_ms, 3),
            device=cell.cost.device,
            seeds=max(len(cell.values.get(m.key, ())) for m in measures),
        )
        for measure in measures:
            row[measure.key] = _rounded(cell.mean(measure.key))
            row[f"{measure.key} std"] = _rounded(cell.spread(measure.key))
        for cost in COSTS:
            keys = [m.key for m in measures if on_front[m.key, cost][place]]
            row[f"front over {cost.removesuffix('_ms')}"] = " ".join(keys)
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping], measures: Sequence[Measure]) -> str:
    """A Markdown table of means, standard deviations over the seeds, and Pareto fronts."""
    timed = "epochs" in rows[0]
    header = ["", *["epochs"] * timed, "seeds", "parameters", "M mult.", "latency (ms)"]
    header += [f"{m.key} ({'less' if m.less else 'more'} is better)" for m in measures]
    fronts = [key for key in rows[0] if key.startswith("front over ")]
    lines = [_line([*header, *fronts]), _line(["---"] * (len(header) + len(fronts)))]
    for row in rows:
        cells = [row["cell"], *[str(row.get("epochs"))] * timed, str(row["seeds"])]
        cells += [f"{row['parameters']:,}", f"{row['multiplications'] / 1e6:.2f}"]
        cells.append(f"{row['latency_ms']:.2f}")
        for measure in measures:
            mean, spread = row[measure.key], row[f"{measure.key} std"]
            several = row["seeds"] > 1
            cells.append(
                "-" if mean is None else f"{mean:.2f}{f' ± {spread:.2f}' if several else ''}"
            )
        lines.append(_line([*cells, *(row[key].replace(" ", ", ") for key in fronts)]))
    return "\n".join(lines)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
