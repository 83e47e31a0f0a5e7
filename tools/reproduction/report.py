"""Report of a table's runs: means over seeds, and differences by pairs of runs with one seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trn_plugin.experiments.plan import Column, Row, Run, Table
from trn_plugin.experiments.results import numbers

__all__ = ["Difference", "Measured", "baseline_of", "markdown", "paired"]

SPLITS = {"val": "validation set", "test": "test half"}


@dataclass
class Measured:
    """A row's metrics on one set, by seed.

    Attributes:
        row (Row): the method.
        runs (dict[int, Mapping[str, float]]): metrics by seed.
    """

    row: Row
    runs: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def values(self, column: Column) -> dict[int, float]:
        """A column's numbers by seed, without the seeds that lack it."""
        key = self.row.keys.get(column.key, column.key)
        return {seed: metrics[key] for seed, metrics in self.runs.items() if key in metrics}


@dataclass(frozen=True)
class Difference:
    """Difference of two methods, over pairs of runs with one seed.

    Attributes:
        pairs (int): number of pairs.
        mean (float): mean difference; NaN without pairs.
        half_width (float): half width of the 95 % interval (Student's t); NaN below two pairs.
    """

    pairs: int
    mean: float
    half_width: float

    def text(self, digits: int) -> str:
        """Text such as ``-0.10 [-0.30, +0.10]``, bold if the interval excludes 0."""
        if not self.pairs:
            return "-"
        mean = f"{self.mean:+.{digits}f}"
        if math.isnan(self.half_width):
            return mean
        low, high = self.mean - self.half_width, self.mean + self.half_width
        bold = "**" if low > 0 or high < 0 else ""
        return f"{bold}{mean} [{low:+.{digits}f}, {high:+.{digits}f}]{bold}"


def paired(own: Mapping[int, float], base: Mapping[int, float]) -> Difference:
    """The paired difference of two methods, from their numbers by seed.

    Runs with one seed see the same pictures in the same order, so their difference varies less
    than either number.
    """
    differences = [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]
    n = len(differences)
    if n < 2:
        return Difference(n, differences[0] if differences else math.nan, math.nan)
    from scipy.stats import t

    error = statistics.stdev(differences) / math.sqrt(n)
    return Difference(n, statistics.fmean(differences), float(t.ppf(0.975, n - 1)) * error)


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row to compare a row with, preferably from its own part; None without baseline."""
    named = [r for r in rows if r.name == row.baseline]
    return min(named, key=lambda r: r.part != row.part) if row.baseline and named else None


def measured(table: Table, rows: Sequence[Mapping[str, str]], split: str) -> list[Measured]:
    """The table's rows that were measured on a set."""
    found = {(row.part, row.name): Measured(row) for row in table.rows}
    for row in rows:
        if row["split"] == split and (row["part"], row["row"]) in found:
            found[row["part"], row["row"]].runs[int(row["seed"])] = numbers(row)
    return [each for each in found.values() if each.runs]


def markdown(
    table: Table, scale: str, rows: Sequence[Mapping[str, str]], runs: Sequence[Run], command: str
) -> str:
    """A table's page in Markdown: numbers and differences of each set, and the commands.

    Args:
        table: the table.
        scale: a key of its ``scales``.
        rows: the rows of :class:`~trn_plugin.experiments.results.Results`.
        runs: one run of each row, for its options.
        command: the command that reproduces the table.
    """
    lines = [f"**{table.title}** {table.scales[scale].about}"]
    for split, name in SPLITS.items():
        found = measured(table, rows, split)
        if not found:
            continue
        box = sorted({row["box"] for row in rows if row["split"] == split})
        devices = sorted({row["device"] for row in rows if row["split"] == split})
        lines += [
            "",
            f"{name.capitalize()} ({'; '.join(box)}). Trained on {'; '.join(devices)}.",
            "",
        ]
        comparable = split == "test" or "test" not in table.scales[scale].splits
        lines += _numbers(table, found, comparable)
        lines += ["", *_differences(table, found, name)]
    return "\n".join([*lines, "", *_commands(runs, command)])


def _numbers(table: Table, found: Sequence[Measured], paper: bool) -> list[str]:
    """Means and standard deviations over seeds, and the paper's numbers."""
    shown = [c for c in table.columns if paper and any(c.key in m.row.paper for m in found)]
    header = ["", "seeds"]
    for column in table.columns:
        header += [column.title, *["paper"] * (column in shown)]
    lines = [_line(header), _line(["---"] * len(header))]
    part = ""
    for each in found:
        if each.row.part != part:
            part = each.row.part
            lines.append(_line([f"*{part}*", *[""] * (len(header) - 1)]))
        cells = [each.row.name, str(len(each.runs))]
        for column in table.columns:
            cells.append(_mean(list(each.values(column).values()), column.digits))
            if column in shown:
                number = each.row.paper.get(column.key)
                cells.append("" if number is None else f"{number:.{column.digits}f}")
        lines.append(_line(cells))
    return lines


def _differences(table: Table, found: Sequence[Measured], name: str) -> list[str]:
    """The table of differences, one line for each row with a baseline."""
    by_slug = {each.row.slug: each for each in found}
    compared = [column for column in table.columns if column.better]
    lines = []
    for each in found:
        other = baseline_of(each.row, [m.row for m in found])
        if other is None:
            continue
        base = by_slug[other.slug]
        pairs = len(each.runs.keys() & base.runs.keys())
        cells = [paired(each.values(c), base.values(c)).text(c.digits) for c in compared]
        part = f"{each.row.part}: " if each.row.part else ""
        lines.append(_line([f"{part}{each.row.name} - {other.name}", str(pairs), *cells]))
    if not lines:
        return []
    header = ["difference", "pairs", *(column.title for column in compared)]
    return [
        f"Differences on the {name}: mean over pairs of runs with one seed, and its 95 % interval "
        "(paired t); bold where the interval excludes 0.",
        *("", _line(header), _line(["---"] * len(header)), *lines),
    ]


def _commands(runs: Sequence[Run], command: str) -> list[str]:
    """The command of the table, the options of all rows, and those of each row."""
    if not runs:
        return []
    seeds = {f"randomness.seed={run.seed}" for run in runs}
    shared = [o for o in runs[0].options if all(o in run.options for run in runs)]
    lines = ["```bash", command, "", "# options of every row:"]
    lines += [f"#   {' '.join(option for option in shared if option not in seeds)}"]
    for run in runs:
        own = [o for o in run.options if o not in shared and o not in seeds]
        lines.append(f"# {str(run).rpartition(',')[0]}: {' '.join([run.row.config, *own])}")
    return [*lines, "```"]


def _mean(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
