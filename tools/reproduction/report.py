"""What a table's runs say: means and spreads over seeds, as Markdown and CSV."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduction.plan import Column, Row, Run, Table, shell

__all__ = ["Finished", "Summary", "baseline_of", "box_of", "csv_rows", "markdown", "summaries"]

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Finished:
    """A run and what it measured.

    Attributes:
        run (Run): the run.
        metrics (Mapping): by key, as tools/test.py writes them.
        box (str): what the network saw of the pictures, see :func:`box_of`.
        leaks (bool): whether that box was made from the exact landmarks.
        seconds (float, optional): training and test.
    """

    run: Run
    metrics: Mapping
    box: str
    leaks: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Summary:
    """A row's values of a column.

    Attributes:
        values (dict[int, float]): by seed.
        difference (float): of the means, from the baseline's; NaN without one.
        p (float): of Welch's t-test of that difference; NaN with fewer than two seeds in either.
    """

    values: dict[int, float]
    difference: float = math.nan
    p: float = math.nan

    @property
    def mean(self) -> float:
        """Over seeds; NaN without any."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1); NaN with one seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else math.nan

    def verdict(self, better: int) -> str:
        """'better', 'worse' or 'same', as far as these seeds can tell; '' without a baseline."""
        if math.isnan(self.difference) or not better:
            return ""
        if math.isnan(self.p):
            return "one seed"
        if self.p >= SIGNIFICANT:
            return "same"
        return "better" if self.difference * better > 0 else "worse"


def summaries(
    rows: Sequence[Row], columns: Sequence[Column], done: Sequence[Finished]
) -> dict[str, dict[str, Summary]]:
    """Means and comparisons by row's slug and column's key.

    A row is compared with its baseline by Welch's t-test over the seeds.
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    for finished in done:
        by_key = values.setdefault(finished.run.row.slug, {})
        for column in columns:
            value = finished.metrics.get(finished.run.row.keys.get(column.key, column.key))
            if isinstance(value, (int, float)):
                by_key.setdefault(column.key, {})[finished.run.seed] = float(value)
    baselines = {row.slug: baseline_of(row, rows) for row in rows}
    found: dict[str, dict[str, Summary]] = {}
    for row in rows:
        other = baselines[row.slug]
        found[row.slug] = {}
        for column in columns:
            own = values.get(row.slug, {}).get(column.key, {})
            base = values.get(other.slug, {}).get(column.key, {}) if other else {}
            found[row.slug][column.key] = Summary(own, *_compared(own, base))
    return found


def markdown(table: Table, scale: str, done: Sequence[Finished], command: str = "") -> str:
    """A table's page: numbers, comparisons, boxes, seeds and the commands behind each row."""
    rows = [row for row in table.rows if any(f.run.row.slug == row.slug for f in done)]
    found = summaries(rows, table.columns, done)
    paper = any(row.paper for row in rows)
    leaks = {f.run.row.slug for f in done if f.leaks}
    lines = [f"**{table.title}** {table.scales[scale].about}", ""]
    if done:
        told = [f"Box: {'; '.join(sorted({f.box for f in done}))}.", _seeds(done)]
        if extra := sorted({option for f in done for option in f.run.extra}):
            told.append(f"Changed in every run: {', '.join(f'`{option}`' for option in extra)}.")
        if paper and scale != "paper":
            told.append("The paper's numbers are of ResNet-18 and the test half.")
        lines += [" ".join(told), ""]
    header = ["", "seeds"]
    for column in table.columns:
        header.append(column.title)
        if column.better and any(row.baseline for row in rows):
            header.append("difference")
        if paper and any(column.key in row.paper for row in rows):
            header.append("paper")
    lines += [_line(header), _line(["---"] * len(header))]
    part = ""
    for row in rows:
        if row.part != part:
            part = row.part
            lines.append(_line([f"*{part}*", *[""] * (len(header) - 1)]))
        seeds = sorted(f.run.seed for f in done if f.run.row.slug == row.slug)
        cells = [row.name + (" (box of the true landmarks)" if row.slug in leaks else "")]
        cells.append(str(len(seeds)))
        for column in table.columns:
            summary = found[row.slug][column.key]
            cells.append(_number(summary, column.digits))
            if column.better and any(r.baseline for r in rows):
                cells.append(_comparison(summary, column))
            if paper and any(column.key in r.paper for r in rows):
                # another box is another problem
                number = None if row.slug in leaks else row.paper.get(column.key)
                cells.append("" if number is None else f"{number:.{column.digits}f}")
        lines.append(_line(cells))
    return "\n".join([*lines, "", *_words(table, rows, found), "", *_commands(rows, done, command)])


def csv_rows(table: Table, scale: str, done: Sequence[Finished]) -> list[dict]:
    """A row for each run: its settings, commands and all that was measured."""
    keys = list(dict.fromkeys(key for f in done for key in f.metrics if "/" in key))
    return [
        {
            **dict(table=table.name, scale=scale, part=f.run.row.part, row=f.run.row.name),
            **dict(seed=f.run.seed, split=f.run.scale.split, box=f.box, seconds=f.seconds),
            **{key: f.metrics.get(key) for key in keys},
            "train_command": shell(f.run.train_command()),
            "test_command": shell(f.run.test_command(f.metrics.get("checkpoint", ""))),
        }
        for f in done
    ]


def box_of(config, split: str) -> tuple[str, bool]:
    """The box of a config's pictures, in words, and whether it is that of the true landmarks."""
    from trn_plugin.datasets.transforms import FaceBox
    from trn_plugin.engine.data_config import plain_datasets_in

    dataset = next(plain_datasets_in(config[f"{split}_dataloader"].dataset))
    for transform in dataset["pipeline"]:
        options = dict(transform)
        if options.pop("type", "").split(".")[-1] == "FaceBox":
            box = FaceBox(**options)
            return f"{box.source} ({split})", box.mode == "landmarks"
    return f"as the data set cuts them ({split})", False


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row that a row is compared with, of its own part if there is one; None without."""
    named = [r for r in rows if r.name == row.baseline and r.part == row.part]
    named += [r for r in rows if r.name == row.baseline and r.part != row.part]
    return named[0] if row.baseline and named else None


def _compared(own: dict[int, float], base: dict[int, float]) -> tuple[float, float]:
    """Difference of means, and p of Welch's t-test."""
    if not own or not base:
        return math.nan, math.nan
    from scipy.stats import ttest_ind

    a, b = list(own.values()), list(base.values())
    difference = statistics.fmean(a) - statistics.fmean(b)
    if min(len(a), len(b)) < 2:
        return difference, math.nan
    if statistics.stdev(a) == statistics.stdev(b) == 0:
        return difference, 1.0 if difference == 0 else 0.0
    return difference, float(ttest_ind(a, b, equal_var=False).pvalue)


def _words(table: Table, rows: Sequence[Row], found) -> list[str]:
    """In a sentence for each compared row, whether its baseline is beaten beyond the seeds."""
    lines = []
    for row in rows:
        if not row.baseline or baseline_of(row, rows) is None:
            continue
        by_verdict: dict[str, list[str]] = {}
        for column in table.columns:
            verdict = found[row.slug][column.key].verdict(column.better)
            if verdict:
                by_verdict.setdefault(verdict, []).append(column.title)
        meaning = {
            "better": f"better than {row.baseline} beyond the spread of seeds in",
            "worse": f"worse than {row.baseline} beyond the spread of seeds in",
            "same": f"not told from {row.baseline} by these seeds in",
            "one seed": f"not compared with {row.baseline}, for want of seeds, in",
        }
        told = [f"{meaning[v]} {', '.join(by_verdict[v])}" for v in meaning if v in by_verdict]
        if told:
            part = f"{row.part}, " if row.part else ""
            lines.append(f"- {part}{row.name}: {'; '.join(told)}.")
    if lines:
        names = " or ".join(dict.fromkeys(row.baseline for row in rows if row.baseline))
        compared = (
            f"Difference: of the means, from {names}, with p of Welch's t-test over the seeds;"
        )
        lines.insert(0, f"{compared} below {SIGNIFICANT:g} counts as beyond their spread.\n")
    return lines


def _commands(rows: Sequence[Row], done: Sequence[Finished], command: str) -> list[str]:
    """The commands of each row's first run, with the options that all share named once."""
    firsts = {}
    for f in done:
        firsts.setdefault(f.run.row.slug, f)
    if not firsts:
        return []
    lists = [f.run.shared_options for f in firsts.values()]
    shared = [option for option in lists[0] if all(option in each for each in lists)]
    lines = ["```bash"]
    if command:
        lines += [command, "", "# which does, for each row and seed:"]
    lines.append(f'common="{" ".join(shared)}"')
    for row in rows:
        run = firsts[row.slug].run
        own = [option for option in run.train_options if option not in shared]
        own = [o if not o.startswith("randomness.seed=") else "randomness.seed=$seed" for o in own]
        seeds = " ".join(str(f.run.seed) for f in done if f.run.row.slug == row.slug)
        lines.append(f"# {run.row.part + ': ' if run.row.part else ''}{row.name}; seeds {seeds}")
        amp = " --amp" * run.amp
        options = f"--cfg-options $common {' '.join(own)}"
        lines.append(f"python tools/train.py {row.config}{amp} {options}")
    return [*lines, "```"]


def _seeds(done: Sequence[Finished]) -> str:
    seeds = sorted({f.run.seed for f in done})
    return f"Mean ± standard deviation over the seeds {', '.join(map(str, seeds))}."


def _number(summary: Summary, digits: int) -> str:
    if math.isnan(summary.mean):
        return "-"
    text = f"{summary.mean:.{digits}f}"
    if math.isnan(summary.deviation):
        return text
    return f"{text} ± {summary.deviation:.{digits}f}"


def _comparison(summary: Summary, column: Column) -> str:
    if math.isnan(summary.difference):
        return ""
    text = f"{summary.difference:+.{column.digits}f}"
    if math.isnan(summary.p):
        return text
    bold = "**" if summary.verdict(column.better) in ("better", "worse") else ""
    near = round(summary.p, 2) == SIGNIFICANT  # on which side of it must be seen
    p = f"p {summary.p:.{3 if near else 2}f}" if summary.p >= 0.01 else "p < 0.01"
    return f"{bold}{text}{bold} ({p})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
