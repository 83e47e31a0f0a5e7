"""A table as a picture: each seed a dot."""

from __future__ import annotations

from collections.abc import Sequence

from reproduction.plan import Table
from reproduction.report import Finished, summaries

__all__ = ["save_comparison"]

DPI = 120


def save_comparison(path: str, table: Table, done: Sequence[Finished]) -> None:
    """Draw a table's rows, a panel for each column: seeds as dots, means as bars, in a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in table.rows if any(f.run.row.slug == row.slug for f in done)]
    found = summaries(rows, table.columns, done)
    names = [f"{row.part}: {row.name}" if row.part else row.name for row in rows]
    size = (2.2 + 2.6 * len(table.columns), 1.1 + 0.32 * len(rows))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(table.columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, table.columns, strict=True):
        for place, row in enumerate(rows):
            summary = found[row.slug][column.key]
            values = list(summary.values.values())
            panel.plot(values, [place] * len(values), "o", color="#1f77b4", alpha=0.6, ms=4)
            panel.plot([summary.mean] * 2, [place - 0.3, place + 0.3], color="#222222", lw=1.5)
        better = {-1: ", less is better", 1: ", more is better", 0: ""}[column.better]
        panel.set_title(f"{column.title}{better}", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.ticklabel_format(axis="x", useOffset=False)
        panel.locator_params(axis="x", nbins=5)
        panel.grid(axis="x", alpha=0.3)
        panel.set_yticks(range(len(rows)), names, fontsize=7)
    panels[0].invert_yaxis()
    FigureCanvasAgg(figure).print_png(path)
