"""Plot of accuracy over cost."""

from __future__ import annotations

from collections.abc import Sequence

from trn_plugin.directions import rule_of
from trn_plugin.evaluation.figures import new_figure, save_figure
from trn_plugin.experiments.summary import COSTS, Cell, front

__all__ = ["save_sweep"]

MARKERS = "osD^vP*X"


def save_sweep(path: str, cells: Sequence[Cell], measures: Sequence[str], title: str) -> None:
    """Plot each metric over each cost, with one dot for each cell.

    Bars are the standard deviation over the seeds. Filled dots, joined by a line, are the Pareto
    front.
    """
    lines = -(-len(cells) // 3)  # in the legend
    height = 3.2 * len(measures) + 0.25 * lines + 0.7
    figure = new_figure(9, height)
    grid = figure.subplots(len(measures), len(COSTS), squeeze=False)
    colors = [f"C{i % 10}" for i in range(len(cells))]
    markers = [MARKERS[i % len(MARKERS)] for i in range(len(cells))]
    handles: list = []
    for measure, panels in zip(measures, grid, strict=True):
        for (cost, label), panel in zip(COSTS.items(), panels, strict=True):
            scale = 1e-3 if cost == "parameters" else 1.0
            on_front = front(cells, measure, cost)
            handles, points = [], []
            for cell, color, marker, best in zip(cells, colors, markers, on_front, strict=True):
                x, y = scale * getattr(cell.cost, cost), cell.mean(measure)
                fill = color if best else "none"
                bars = dict(yerr=cell.spread(measure), lw=1, color=color)
                drawn = panel.errorbar(x, y, fmt=marker, ms=6, mfc=fill, label=cell.name, **bars)
                handles.append(drawn)
                points += [(x, y)] * best
            if points:
                panel.plot(*zip(*sorted(points), strict=True), color="#222222", lw=1, zorder=0)
            panel.set_ylabel(f"{measure}, {rule_of(measure)} is better", fontsize=8)
            panel.set_xlabel(label, fontsize=8)
            panel.tick_params(labelsize=7)
            panel.grid(alpha=0.3)
    figure.suptitle(f"{title}\nfilled and joined: the Pareto front", fontsize=9)
    figure.legend(handles=handles, loc="lower center", ncols=min(3, len(cells)), fontsize=7)
    figure.tight_layout(rect=(0, (0.25 * lines + 0.15) / height, 1, 1))
    save_figure(figure, path)
