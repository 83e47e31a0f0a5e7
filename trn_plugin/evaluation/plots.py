"""Pictures of results. Plain numbers in, PNG files out; matplotlib is imported on first use."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trn_plugin.tasks import Line

__all__ = [
    "Case",
    "Course",
    "Panel",
    "save_cases",
    "save_confusion",
    "save_convergence",
    "save_courses",
    "save_cumulative_error",
    "save_precision_recall",
    "save_similarity",
    "save_values",
]

TRUTH, PREDICTION = "#00c853", "#ff1744"
RIGHT, WRONG, PLAIN = "#1b7837", "#c51b1b", "#222222"
NO_BREAK = "\u00a0"
DPI = 120
DRAWN_POINTS = 1000  # of a curve, at most


@dataclass
class Case:
    """One picture with its truth and prediction.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth: (P, 2) true points in the image's pixels, or None.
        prediction: (P, 2) predicted points in the image's pixels, or None.
        frame: x0, y0, x1, y1 of the box that the model saw, in the image's pixels, or None.
        lines: Text to write beside it.
    """

    image: np.ndarray
    truth: np.ndarray | None = None
    prediction: np.ndarray | None = None
    frame: tuple[float, float, float, float] | None = None
    lines: list[Line] = field(default_factory=list)


@dataclass
class Course:
    """An online estimate over iterations, drawn faint and dotted if it ``cannot`` arrive."""

    label: str
    tau: np.ndarray
    cannot: bool = False


@dataclass
class Panel:
    """Online estimates beside the offline value (dashed) and the chance level (dotted)."""

    title: str
    offline: float
    chance: float
    courses: Sequence[Course]


def save_cases(path: str, cases: Sequence[Case], title: str = "", columns: int = 4) -> None:
    """A sheet of pictures, each with its text to the right: truth green, prediction red.

    Without any prediction there is no legend.
    """
    columns = min(columns, len(cases))
    rows = math.ceil(len(cases) / columns)
    cell, top, bottom = (4.35, 2.3), 0.45 if title else 0.1, 0.35
    width, height = columns * cell[0], rows * cell[1] + top + bottom
    figure = _figure(width, height)
    for index, case in enumerate(cases):
        row, column = divmod(index, columns)
        left, under = column * cell[0], height - top - (row + 1) * cell[1]
        picture = figure.add_axes(
            ((left + 0.1) / width, (under + 0.08) / height, 2.1 / width, 2.1 / height)
        )
        _draw_case(picture, case)
        text = figure.add_axes(
            ((left + 2.3) / width, (under + 0.08) / height, 2.0 / width, 2.1 / height)
        )
        _draw_lines(text, case.lines)
    if title:
        figure.text(0.1 / width, 1 - 0.1 / height, title, va="top", fontsize=11, color=PLAIN)
    if any(case.prediction is not None for case in cases):
        _draw_legend(figure, width, height)
    _save(figure, path)


def save_confusion(path: str, matrix: np.ndarray, classes: Sequence[str], title: str = "") -> None:
    """A confusion matrix: counts, shaded by the share of each true class (rows)."""
    count = len(classes)
    side = max(3.6, 0.8 * count + 1.6)
    figure = _figure(side + 1.2, side + 0.3)
    axes = figure.add_subplot()
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    shaded = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for (row, column), value in np.ndenumerate(matrix):
        axes.text(
            column,
            row,
            f"{value}\n{100 * shares[row, column]:.0f} %" if value else "0",
            ha="center",
            va="center",
            fontsize=9 if count <= 12 else 6,
            color="white" if shares[row, column] > 0.5 else PLAIN,
        )
    axes.set_xticks(range(count), classes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=11)
    figure.colorbar(shaded, ax=axes, label="share of the true class", fraction=0.046, pad=0.03)
    _save(figure, path, tight=True)


def save_cumulative_error(
    path: str,
    errors: Mapping[str, np.ndarray],
    threshold: float = 10.0,
    xlabel: str = "error (%)",
    title: str = "",
) -> None:
    """The share of pictures up to each error, one curve a name; errors in percent."""
    figure = _figure(5.6, 4)
    axes = figure.add_subplot()
    finite = np.concatenate([values[np.isfinite(values)] for values in errors.values()])
    limit = max(2 * threshold, float(np.percentile(finite, 97))) if finite.size else 2 * threshold
    for index, (name, values) in enumerate(errors.items()):
        ordered = np.concatenate([[0], np.sort(values), [np.inf]])
        share = np.concatenate([[0], np.arange(1, values.size + 1), [values.size]])
        failures = 100 * np.mean(values > threshold)
        axes.step(
            np.minimum(ordered, 2 * limit),
            100 * share / max(values.size, 1),
            where="post",
            color=(PREDICTION, "#777777", "#1f77b4")[index % 3],
            linestyle="-" if index == 0 else "--",
            label=f"{name}: mean {values.mean():.2f} %, {failures:.1f} % above {threshold:g} %",
        )
    axes.axvline(threshold, color=PLAIN, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, limit), ylim=(0, 100), xlabel=xlabel, ylabel="pictures (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8, frameon=False)
    axes.set_title(title, fontsize=11)
    _save(figure, path, tight=True)


def save_precision_recall(
    path: str,
    truth: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    title: str = "",
    highlighted: int = 4,
) -> None:
    """Precision over recall of attributes, (N, A) labels (NaN: unknown) and probabilities.

    Up to twice ``highlighted`` attributes are drawn by name; of more, the best and the worst are,
    over all others in grey. Attributes whose labels are all alike have no curve.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    curves = []
    for name, labels, scores in zip(names, truth.T, probabilities.T, strict=True):
        known = np.isfinite(labels) & np.isfinite(scores)
        positive = labels[known] > 0.5
        if positive.size and 0 < positive.sum() < positive.size:
            precision, recall, _ = precision_recall_curve(positive, scores[known])
            score = average_precision_score(positive, scores[known])
            curves.append((score, name, recall, precision, positive.mean()))
    curves.sort(key=lambda curve: -curve[0])
    few = len(curves) <= 2 * highlighted
    named = curves if few else curves[:highlighted] + curves[-highlighted:]
    figure = _figure(6.8, 4)
    axes = figure.add_subplot()
    if not few:
        others = curves[highlighted:-highlighted]
        for index, (_, _, recall, precision, _) in enumerate(others):
            label = None if index else f"the other {len(others)}"
            axes.step(recall, precision, where="post", color="#cccccc", lw=0.8, label=label)
    for index, (score, name, recall, precision, prior) in enumerate(named):
        label = f"{name}: AP {100 * score:.1f} % (prior {100 * prior:.1f} %)"
        axes.step(recall, precision, where="post", color=f"C{index}", label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.grid(alpha=0.3)
    if named:
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "undefined: all labels alike", ha="center", color=PLAIN)
    axes.set_title(title, fontsize=11)
    _save(figure, path, tight=True)


def save_values(
    path: str,
    truth: np.ndarray,
    predicted: np.ndarray,
    names: Sequence[str],
    title: str = "",
) -> None:
    """Predicted over true values, (N, V) each, a panel a name; on the line they are equal."""
    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    figure = _figure(3.9 * columns, 3.7 * rows + 0.3)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, name, x, y in zip(grid, names, truth.T, predicted.T, strict=False):
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        axes.scatter(x, y, s=12, alpha=0.5, color="#1f77b4", linewidths=0)
        if x.size:
            ends = [min(x.min(), y.min()), max(x.max(), y.max())]
            axes.plot(ends, ends, color=PLAIN, linewidth=0.8, linestyle=":")
        error = f"{np.abs(x - y).mean():.3g}" if x.size else "undefined"
        axes.set(xlabel="true", ylabel="predicted")
        axes.set_title(f"{name}: mean absolute error {error}", fontsize=9)
        axes.grid(alpha=0.3)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    _save(figure, path)


def save_similarity(path: str, matrix: np.ndarray, names: Sequence[str], title: str = "") -> None:
    """Task similarities in 0..1 as a heat map, as in the paper's Figure 3; NaN is left white."""
    count = len(names)
    few = count <= 12
    side = max(3.6, (0.62 if few else 0.28) * count + 1.4)
    figure = _figure(side + 1.0, side)
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
    _save(figure, path, tight=True)


def save_convergence(path: str, panels: Sequence[Sequence[Panel]], title: str = "") -> None:
    """Task similarity over the number of iterations, as in the paper's Figure 4; rows of panels."""
    rows, columns = len(panels), max(map(len, panels))
    figure = _figure(4.6 * columns, 3.9 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, (p for row in panels for p in row), strict=True):
        for index, course in enumerate(panel.courses):
            x = _log_spaced(len(course.tau))
            style = dict(linestyle=":", alpha=0.6) if course.cannot else {}
            label = f"{course.label}, too few" if course.cannot else course.label
            axes.plot(x, course.tau[x - 1], color=f"C{index}", label=label, lw=1.4, **style)
        axes.axhline(panel.offline, color=PLAIN, linestyle="--", lw=1.2, label="offline")
        axes.axhline(panel.chance, color="#999999", linestyle="-.", lw=1, label="chance, offline")
        axes.set(xscale="log", ylim=(0, 1.02), xlabel="iterations", ylabel="task similarity τ")
        axes.set_title(panel.title, fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize=7, title="effective samples", title_fontsize=7)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    _save(figure, path)


def save_courses(
    path: str,
    panels: Mapping[str, Mapping[str, np.ndarray]],
    dashed: str,
    last: int,
    columns: int = 4,
    arrived: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    chance: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Task similarity over the iterations of training: a panel a relation, a curve a level.

    Args:
        path: of the PNG file.
        panels: (N,) of the last N iterations, by relation and level.
        dashed: the level that the others are compared with.
        last: the last iteration.
        columns: panels in a row.
        arrived: (N,) bool by relation and level; where False the curve is faint.
        chance: (N,) by relation and level, what independent features would have; dotted.
    """
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _figure(4.6 * columns, 3.5 * rows)
    arrived, chance = arrived or {}, chance or {}
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, levels) in zip(grid, panels.items(), strict=False):
        for index, (level, tau) in enumerate(levels.items()):
            style = (
                dict(color=PLAIN, linestyle="--") if level == dashed else dict(color=f"C{index}")
            )
            step = math.ceil(len(tau) / DRAWN_POINTS)
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
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize=8)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.tight_layout()
    _save(figure, path)


def _log_spaced(count: int, points: int = 250) -> np.ndarray:
    """Iterations from 1 to ``count``, as dense as a logarithmic axis can show."""
    return np.unique(np.geomspace(1, count, points).round().astype(int))


def _figure(width: float, height: float):
    # no pyplot: it would keep every figure alive and change the caller's backend
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path: str, tight: bool = False) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    figure.savefig(path, format="png", bbox_inches="tight" if tight else None)


def _draw_case(axes, case: Case) -> None:
    height, width = case.image.shape[:2]
    axes.imshow(case.image, extent=(0, width, height, 0), interpolation="bilinear")
    axes.set_axis_off()
    axes.set_anchor("NW")
    if case.frame is not None:
        x0, y0, x1, y1 = case.frame
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="white", lw=0.7, alpha=0.7)
    both = case.truth is not None and case.prediction is not None
    if both and len(case.truth) == len(case.prediction):  # else single points are missing
        for (x0, y0), (x1, y1) in zip(case.truth, case.prediction, strict=True):
            axes.plot([x0, x1], [y0, y1], color="white", lw=0.8, clip_on=True)
    if case.truth is not None:
        axes.plot(*case.truth.T, **_marker(TRUTH, "o"))
    if case.prediction is not None:
        axes.plot(*case.prediction.T, **_marker(PREDICTION, "x"))
    axes.set(xlim=(0, width), ylim=(height, 0))


def _marker(color: str, shape: str) -> dict:
    return dict(
        linestyle="none", marker=shape, color=color, markersize=5, mew=1.6, fillstyle="none"
    )


def _draw_lines(axes, lines: Sequence[Line], size: int = 8, room: int = 14) -> None:
    axes.set_axis_off()
    wrapped = [
        Line(part, line.right)
        for line in lines
        for part in textwrap.wrap(
            line.text.replace(" %", NO_BREAK + "%"), 29, subsequent_indent="  "
        )
    ]
    if len(wrapped) > room:
        wrapped = [*wrapped[: room - 1], Line("...")]
    for index, line in enumerate(wrapped):
        color = PLAIN if line.right is None else (RIGHT if line.right else WRONG)
        axes.text(0, 1 - index / room, line.text, va="top", fontsize=size, color=color)


def _draw_legend(figure, width: float, height: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], **_marker(TRUTH, "o"), label="truth"),
        Line2D([], [], **_marker(PREDICTION, "x"), label="prediction"),
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.02 / width, 0.0),
        ncols=2,
        fontsize=9,
        frameon=False,
    )
