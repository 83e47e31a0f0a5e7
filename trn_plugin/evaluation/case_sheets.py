"""Sheets of pictures with their labels and predictions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trn_plugin.evaluation.figures import PLAIN, PREDICTION, TRUTH, new_figure, save_figure
from trn_plugin.tasks import Line

__all__ = ["Case", "save_cases"]

COLORS = {None: PLAIN, True: "#1b7837", False: "#c51b1b"}
"""Colour of a line, by ``Line.right``."""
NO_BREAK = "\u00a0"
MOST_LINES = 14


@dataclass
class Case:
    """One picture with its labels and predictions.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth: (P, 2) true points in the image's pixels, or None.
        prediction: (P, 2) predicted points in the image's pixels, or None.
        frame: x0, y0, x1, y1 of the model's crop in the image's pixels, or None.
        lines: Text to write beside it.
    """

    image: np.ndarray
    truth: np.ndarray | None = None
    prediction: np.ndarray | None = None
    frame: tuple[float, float, float, float] | None = None
    lines: list[Line] = field(default_factory=list)


def save_cases(path: str, cases: Sequence[Case], title: str = "", columns: int = 4) -> None:
    """Save a sheet of pictures, each with its text beside it: truth green, prediction red.

    The legend is left out if there is no prediction.
    """
    columns = min(columns, len(cases))
    rows = math.ceil(len(cases) / columns)
    cell, top, bottom = (4.35, 2.3), 0.45 if title else 0.1, 0.35
    width, height = columns * cell[0], rows * cell[1] + top + bottom
    figure = new_figure(width, height)
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
    save_figure(figure, path)


def _draw_case(axes, case: Case) -> None:
    height, width = case.image.shape[:2]
    axes.imshow(case.image, extent=(0, width, height, 0), interpolation="bilinear")
    axes.set_axis_off()
    axes.set_anchor("NW")
    if case.frame is not None:
        x0, y0, x1, y1 = case.frame
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="white", lw=0.7, alpha=0.7)
    both = case.truth is not None and case.prediction is not None
    if both and len(case.truth) == len(case.prediction):  # not if points are missing
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


def _draw_lines(axes, lines: Sequence[Line]) -> None:
    axes.set_axis_off()
    wrapped = [
        Line(part, line.right)
        for line in lines
        for part in textwrap.wrap(
            line.text.replace(" %", NO_BREAK + "%"), 29, subsequent_indent="  "
        )
    ]
    if len(wrapped) > MOST_LINES:
        wrapped = [*wrapped[: MOST_LINES - 1], Line("...")]
    for index, line in enumerate(wrapped):
        color = COLORS[line.right]
        axes.text(0, 1 - index / MOST_LINES, line.text, va="top", fontsize=8, color=color)


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
