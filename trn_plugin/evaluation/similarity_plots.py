"""Plots of task similarity: a heat map, and curves over iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trn_plugin.evaluation.figures import PLAIN, new_figure, new_panels, save_figure

__all__ = ["Curve", "Panel", "save_convergence", "save_similarity", "save_training_curves"]

MOST_POINTS = 1000  # per curve


@dataclass
class Curve:
    """An online estimate over iterations; faint and dotted if it has too few effective samples."""

    label: str
    tau: np.ndarray
    too_few: bool = False


@dataclass
class Panel:
    """Online estimates, the offline value (dashed) and the chance level (dash-dotted)."""

    title: str
    offline: float
    chance: float
    curves: Sequence[Curve]


def save_similarity(path: str, matrix: np.ndarray, names: Sequence[str], title: str = "") -> None:
    """Save task similarities in 0..1 as a heat map (the paper's Figure 3); NaN is white."""
    count = len(names)
    few = count <= 12
    side = max(3.6, (0.62 if few else 0.28) * count + 1.4)
    figure = new_figure(side + 1.0, side)
    axes = figure.add_subplot()
    shaded = axes.imshow(matrix, vmin=0, vmax=1, cmap="YlOrRd")
    for (row, column), value in np.ndenumerate(matrix if count <= 60 else []):
        if not math.isnan(value):
            text = f"{value:.2f}" if few else f"{100 * value:.0f}"
            colour = "white" if value > 0.6 else PLAIN
            size = 9 if few else 6
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    turned = dict(rotation=45, rotation_mode="anchor") if few else dict(rotation=90)
    axes.set_xticks(range(count), names, ha="right" if few else "center", **turned)
    axes.set_yticks(range(count), names)
    axes.tick_params(length=0, labelsize=9 if few else 8)
    axes.set_title(title, fontsize=10)
    label = "task similarity τ" if few else "task similarity τ (in the cells: 100 τ)"
    figure.colorbar(shaded, ax=axes, label=label, shrink=0.8)
    save_figure(figure, path, tight=True)


def save_convergence(path: str, panels: Sequence[Sequence[Panel]], title: str = "") -> None:
    """Save task similarity over iterations (the paper's Figure 4), in rows of panels."""
    flat = [panel for row in panels for panel in row]
    figure, grid = new_panels(len(flat), max(map(len, panels)), 4.6, 3.9, above=0.4)
    for axes, panel in zip(grid, flat, strict=True):
        for index, curve in enumerate(panel.curves):
            x = _log_spaced(len(curve.tau))
            style = dict(linestyle=":", alpha=0.6) if curve.too_few else {}
            label = f"{curve.label}, too few" if curve.too_few else curve.label
            axes.plot(x, curve.tau[x - 1], color=f"C{index}", label=label, lw=1.4, **style)
        axes.axhline(panel.offline, color=PLAIN, linestyle="--", lw=1.2, label="offline")
        axes.axhline(panel.chance, color="#999999", linestyle="-.", lw=1, label="chance, offline")
        axes.set(xscale="log", ylim=(0, 1.02), xlabel="iterations", ylabel="task similarity τ")
        axes.set_title(panel.title, fontsize=9)
        axes.legend(loc="best", fontsize=7, title="effective samples", title_fontsize=7)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    save_figure(figure, path)


def save_training_curves(
    path: str,
    panels: Mapping[str, Mapping[str, np.ndarray]],
    dashed: str,
    last: int,
    arrived: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    chance: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Save task similarity over training: one panel for each relation, one curve for each level.

    Args:
        path: of the PNG file.
        panels: (N,) tau of the last N iterations, by relation and level.
        dashed: the reference level, drawn dashed.
        last: the last iteration.
        arrived: (N,) bool by relation and level; the curve is faint where False.
        chance: (N,) chance level by relation and level, drawn dotted.
    """
    figure, grid = new_panels(len(panels), 4, 4.6, 3.5)
    arrived, chance = arrived or {}, chance or {}
    for axes, (name, levels) in zip(grid, panels.items(), strict=True):
        for index, (level, tau) in enumerate(levels.items()):
            style = (
                dict(color=PLAIN, linestyle="--") if level == dashed else dict(color=f"C{index}")
            )
            step = math.ceil(len(tau) / MOST_POINTS)
            x = np.arange(last - len(tau), last) + 1
            settled = arrived.get(name, {}).get(level)
            shown = tau if settled is None else np.where(settled, tau, np.nan)
            axes.plot(x[::-step], shown[::-step], lw=1.3, label=level, **style)
            if settled is not None and not settled.all():
                text = None if index else "too few samples"
                axes.plot(x[::-step], tau[::-step], lw=1.3, alpha=0.3, label=text, **style)
            if level in chance.get(name, {}):
                expected = chance[name][level]
                style = dict(color=style["color"], linestyle=":")
                text = None if index else "chance"
                axes.plot(x[::-step], expected[::-step], lw=0.9, label=text, **style)
        axes.set(ylim=(0, 1.02), xlabel="iterations", ylabel="task similarity τ, running")
        axes.set_title(name, fontsize=10)
        axes.legend(loc="best", fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)


def _log_spaced(count: int) -> np.ndarray:
    """Iterations from 1 to ``count``, evenly spaced on a logarithmic axis."""
    return np.unique(np.geomspace(1, count, 250).round().astype(int))
