"""Shared parts of all plots; matplotlib is imported on first use."""

from __future__ import annotations

import math
import os

__all__ = ["PLAIN", "PREDICTION", "TRUTH", "new_figure", "new_panels", "save_figure"]

TRUTH, PREDICTION, PLAIN = "#00c853", "#ff1744", "#222222"
DPI = 120


def new_figure(width: float, height: float):
    """Make a figure of this size in inches."""
    # not pyplot, which keeps every figure alive and changes the caller's backend
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def new_panels(count: int, columns: int, width: float, height: float, above: float = 0.0):
    """Make a figure with ``count`` panels of this size, with room for a title above."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = new_figure(width * columns, height * rows + above)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    for axes in grid[:count]:
        axes.grid(alpha=0.3)
    return figure, grid[:count]


def save_figure(figure, path: str, tight: bool = False) -> None:
    """Write a PNG file; ``tight`` cuts its margins."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    figure.savefig(path, format="png", bbox_inches="tight" if tight else None)
