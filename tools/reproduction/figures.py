"""The numbers behind the paper's figures, as Markdown."""

from __future__ import annotations

import csv
from pathlib import Path

from reproduction.tables import TAU_OF_PAIRS
from trn_plugin.errors import DataError

__all__ = ["arrivals", "pairs_beside_paper"]


def pairs_beside_paper(path: Path) -> list[str]:
    """Of the CSV of tools/task_similarity.py: the pairs of Table 3, and the extremes.

    Raises:
        DataError: a pair that is not in the file.
    """
    rows = {frozenset((row["a"], row["b"])): row for row in _rows(path)}
    lines = ["| attributes | τ of the labels | paper |", "| --- | --- | --- |"]
    for pair, paper in TAU_OF_PAIRS.items():
        row = rows.get(frozenset(pair))
        if row is None:
            raise DataError(f"{path}: has no pair {' and '.join(pair)}")
        lines.append(f"| {' and '.join(pair)} | {float(row['tau_gt']):.4f} | {paper:.3f} |")
    ordered = sorted(rows.values(), key=lambda row: -float(row["tau_gt"] or 0))
    for title, some in (("Most", ordered[:4]), ("Least", ordered[-4:])):
        told = [f"{row['a']} and {row['b']} {float(row['tau_gt'] or 0):.3f}" for row in some]
        lines += ["", f"{title} related: {'; '.join(told)}."]
    return lines


def arrivals(path: Path) -> list[str]:
    """Of the CSV of convergence_study.py: the offline and the online tau of each course."""
    lines = [
        "| features | batch | m | τ offline | τ online | effective samples | needed | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in _rows(path):
        online = f"{float(row['online']):.3f} ± {float(row['spread']):.3f}"
        level = {"gt": "labels"}.get(row["level"], row["level"])
        cells = [level, row["batch"], row["m"], f"{float(row['offline']):.3f}", online]
        cells += [row["samples"], row["needed"], row["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _rows(path: Path) -> list[dict]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
