"""Plot of a table, with one dot for each seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from reproduction.report import measured
from trn_plugin.experiments.plan import Table

DPI = 120


def save_comparison(path: str, table: Table, rows: Sequence[Mapping[str, str]]) -> None:
    """Plot a table's columns for each measured set, as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    splits = [split for split in ("val", "test") if any(row["split"] == split for row in rows)]
    height = 0.6 + sum(0.5 + 0.32 * len(measured(table, rows, split)) for split in splits)
    figure = Figure((2.2 + 2.6 * len(table.columns), height), dpi=DPI, layout="constrained")
    grid = figure.subplots(len(splits), len(table.columns), sharey="row", squeeze=False)
    for split, panels in zip(splits, grid, strict=True):
        found = measured(table, rows, split)
        names = [f"{m.row.part}: {m.row.name}" if m.row.part else m.row.name for m in found]
        for panel, column in zip(panels, table.columns, strict=True):
            for place, each in enumerate(found):
                values = list(each.values(column).values())
                panel.plot(values, [place] * len(values), "o", color="#1f77b4", alpha=0.6, ms=4)
                if values:
                    mean = statistics.fmean(values)
                    panel.plot([mean] * 2, [place - 0.3, place + 0.3], color="#222222", lw=1.5)
            better = {-1: ", less is better", 1: ", more is better", 0: ""}[column.better]
            panel.set_title(f"{column.title} ({split}){better}", fontsize=8)
            panel.tick_params(labelsize=7)
            panel.ticklabel_format(axis="x", useOffset=False)
            panel.locator_params(axis="x", nbins=5)
            panel.grid(axis="x", alpha=0.3)
            panel.set_yticks(range(len(found)), names, fontsize=7)
        panels[0].invert_yaxis()
    FigureCanvasAgg(figure).print_png(path)
