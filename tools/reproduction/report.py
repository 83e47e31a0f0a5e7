"""Report of a table's runs: means over seeds, and paired differences of runs with equal seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trn_plugin.experiments.plan import Column, Row, Run, Table
from trn_plugin.experiments.results import numbers

SPLITS = {"val": "validation set", "test": "test half"}


@dataclass
class Measured:
    """A row's metrics on one set.

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


def paired(own: Mapping[int, float], base: Mapping[int, float]) -> list[float]:
    """Differences of two methods' numbers, one for each seed that both have.

    Runs with equal seeds see the same pictures in the same order, so their difference varies less
    than either number.
    """
    return [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]


def difference(differences: Sequence[float], digits: int) -> str:
    """Mean difference and its 95 % interval (Student's t), bold if the interval excludes 0."""
    if not differences:
        return "-"
    text = f"{statistics.fmean(differences):+.{digits}f}"
    if len(differences) == 1:
        return text
    from scipy.stats import ttest_1samp

    low, high = ttest_1samp(differences, 0).confidence_interval(0.95)
    bold = "**" if low > 0 or high < 0 else ""
    return f"{bold}{text} [{low:+.{digits}f}, {high:+.{digits}f}]{bold}"


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
    lines = [f"**{table.title}** {table.scales[scale].about}", ""]
    for split, name in SPLITS.items():
        found = measured(table, rows, split)
        if found:
            of_split = [row for row in rows if row["split"] == split]
            box, devices = ("; ".join(sorted({r[k] for r in of_split})) for k in ("box", "device"))
            lines += [f"{name.capitalize()} ({box}). Trained on {devices}.", ""]
            # the paper's numbers are of the test half
            with_paper = split == "test" or "test" not in table.scales[scale].splits
            lines += [*_numbers(table, found, with_paper), "", *_differences(table, found, name)]
    return "\n".join([*lines, *_commands(runs, command)])


def _numbers(table: Table, found: Sequence[Measured], with_paper: bool) -> list[str]:
    """Means and standard deviations over seeds, and the paper's numbers."""
    shown = [c for c in table.columns if with_paper and any(c.key in m.row.paper for m in found)]
    header = ["", "seeds"]
    for column in table.columns:
        header += [column.title, *["paper"] * (column in shown)]
    lines, part = [], ""
    for each in found:
        if each.row.part != part:
            part = each.row.part
            lines.append([f"*{part}*", *[""] * (len(header) - 1)])
        cells = [each.row.name, str(len(each.runs))]
        for column in table.columns:
            cells.append(_mean(list(each.values(column).values()), column.digits))
            if column in shown:
                number = each.row.paper.get(column.key)
                cells.append("" if number is None else f"{number:.{column.digits}f}")
        lines.append(cells)
    return _table(header, lines)


def _differences(table: Table, found: Sequence[Measured], name: str) -> list[str]:
    """The table of differences, one line for each row with a baseline."""
    by_slug = {each.row.slug: each for each in found}
    columns = [column for column in table.columns if column.better]
    lines = []
    for each in found:
        other = baseline_of(each.row, [m.row for m in found])
        if other is not None:
            base = by_slug[other.slug]
            cells = [difference(paired(each.values(c), base.values(c)), c.digits) for c in columns]
            pairs = str(len(each.runs.keys() & base.runs.keys()))
            part = f"{each.row.part}: " if each.row.part else ""
            lines.append([f"{part}{each.row.name} - {other.name}", pairs, *cells])
    if not lines:
        return []
    return [
        f"Differences on the {name}: mean over pairs of runs with equal seeds, and its 95 % "
        "interval (paired t); bold where the interval excludes 0.",
        "",
        *_table(["difference", "pairs", *(column.title for column in columns)], lines),
        "",
    ]


def _commands(runs: Sequence[Run], command: str) -> list[str]:
    """The command of the table, the options of all rows, and those of each row."""
    shared = [o for o in runs[0].options if all(o in run.options for run in runs)]
    lines = ["```bash", command, "", "# options of every row:"]
    lines += [f"#   {' '.join(o for o in shared if not o.startswith('randomness.seed='))}"]
    for run in runs:
        own = [o for o in run.options if o not in shared and not o.startswith("randomness.seed=")]
        lines.append(f"# {str(run).rpartition(',')[0]}: {' '.join([run.row.config, *own])}")
    return [*lines, "```"]


def _mean(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
