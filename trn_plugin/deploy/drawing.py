"""Draw predictions: points and boxes on the picture, classes and attributes beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import cv2
import numpy as np

from trn_plugin.tasks import Task

__all__ = ["draw_objects", "summary_lines"]

SHORTEST_SIDE = 320
LONGEST_UPSCALED_SIDE = 1600
LARGEST_DRAWING = 16_000
"""Longest side of a drawing in pixels; JPEG allows 65,535."""
NAMED_SIDE = 150
"""Shortest side in pixels of an object whose points are named."""
FARTHEST = 2**15
"""Largest coordinate in pixels of a point that is drawn."""
FONT = cv2.FONT_HERSHEY_SIMPLEX

BOX_COLOR = (255, 196, 0)
POINT_COLOR = (64, 255, 96)
DARK = (24, 24, 24)
TEXT_COLOR = (240, 240, 240)
TITLE_COLOR = (255, 196, 0)


def summary_lines(tasks: dict[str, Task], prediction: dict) -> list[str]:
    """Classes, values and attributes of one object as short lines; points have none.

    Args:
        tasks: :attr:`TaskPredictor.tasks`, or some of them.
        prediction: one element of the output of :meth:`TaskPredictor.predict`.
    """
    return [line.text for name, task in tasks.items() for line in task.summary(prediction[name])]


def draw_objects(
    image: np.ndarray,
    tasks: dict[str, Task],
    predictions: Sequence[dict],
    boxes: Sequence[tuple[int, int, int, int] | None] | None = None,
    fixed_size: bool = False,
    word: str = "object",
) -> np.ndarray:
    """A copy of the picture with the predictions of its objects.

    A small picture is enlarged first; text stands beside the picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        tasks: :attr:`TaskPredictor.tasks`, or some of them.
        predictions: one for each object, from :meth:`TaskPredictor.predict`.
        boxes: the box of each object in pixels; None is the whole picture and is not drawn.
        fixed_size: leave room for the tasks' longest text, so that all frames of a video have one
            size.
        word: word for an object.

    Returns:
        np.ndarray: (H', W', 3) uint8 RGB, H' >= H and W' >= W.
    """
    boxes = [None] * len(predictions) if boxes is None else boxes
    height, width = image.shape[:2]
    factor = min(SHORTEST_SIDE / min(height, width), LONGEST_UPSCALED_SIDE / max(height, width))
    factor = max(factor, 1.0)
    if factor > 1:
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    else:
        canvas = image.copy()

    numbered = len(predictions) > 1
    for number, (prediction, box) in enumerate(zip(predictions, boxes, strict=True), start=1):
        side = min(canvas.shape[:2])
        if box is not None:
            side = min(side, min(box[2] - box[0], box[3] - box[1]) * factor)
            _draw_box(canvas, [value * factor for value in box], str(number) if numbered else "")
        for name, task in tasks.items():
            points = np.nan_to_num(task.points(prediction[name]) * factor, nan=np.inf)
            names = task.names if len(points) == len(task.names) and side >= NAMED_SIDE else ()
            for (x, y), label in zip_longest(points, names, fillvalue=""):
                if max(abs(x), abs(y)) <= FARTHEST:
                    _draw_point(canvas, x, y, label, side)
    longest = [line for task in tasks.values() for line in task.longest_summary()]
    panel = _panel_lines(tasks, predictions, word)
    return _with_panel(canvas, panel, longest if fixed_size else [])


def _draw_box(canvas: np.ndarray, box: list[float], label: str) -> None:
    scale = _text_scale(canvas)
    thickness = max(1, round(2 * scale))
    x0, y0, x1, y1 = (round(value) for value in box)
    corners = (x0, y0), (x1 - 1, y1 - 1)
    cv2.rectangle(canvas, *corners, DARK, thickness + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, *corners, BOX_COLOR, thickness, cv2.LINE_AA)
    if label:
        (text_width, text_height), _ = cv2.getTextSize(label, FONT, scale, thickness)
        left = int(np.clip(x0, 0, max(canvas.shape[1] - text_width - 4, 0)))
        top = y0 - text_height - 6 if y0 >= text_height + 6 else max(y0 + 2, 0)
        corner = (left + text_width + 4, top + text_height + 6)
        cv2.rectangle(canvas, (left, top), corner, DARK, cv2.FILLED)
        origin = (left + 2, top + text_height + 2)
        cv2.putText(canvas, label, origin, FONT, scale, BOX_COLOR, thickness, cv2.LINE_AA)


def _draw_point(canvas: np.ndarray, x: float, y: float, label: str, side: float) -> None:
    # four fractional bits: points are not rounded to whole pixels
    bits = 4
    radius = float(np.clip(side / 80, 2.2, 12))
    # pixel centres are integers in OpenCV, n + 1/2 here
    center = (round((float(x) - 0.5) * 2**bits), round((float(y) - 0.5) * 2**bits))
    for extra, color in ((max(1.0, radius / 2), DARK), (0.0, POINT_COLOR)):
        reach = round((radius + extra) * 2**bits)
        cv2.circle(canvas, center, reach, color, cv2.FILLED, cv2.LINE_AA, bits)
    if label:
        scale = float(np.clip(side / 900, 0.3, 0.8))
        (width, height), _ = cv2.getTextSize(label, FONT, scale, 1)
        origin = round(x - width / 2), round(y + height + side / 40)
        cv2.putText(canvas, label, origin, FONT, scale, DARK, 3, cv2.LINE_AA)
        cv2.putText(canvas, label, origin, FONT, scale, TEXT_COLOR, 1, cv2.LINE_AA)


def _text_scale(canvas: np.ndarray) -> float:
    return float(np.clip(min(canvas.shape[:2]) / 800, 0.45, 3))


def _panel_lines(
    tasks: dict[str, Task], predictions: Sequence[dict], word: str
) -> list[tuple[bool, str]]:
    """The panel's lines as (is a title, text)."""
    panel = []
    for number, prediction in enumerate(predictions, start=1):
        found = summary_lines(tasks, prediction)
        if len(predictions) > 1 and found:
            panel.append((True, f"{word} {number}"))
        panel += [(False, line) for line in found]
    return panel


def _with_panel(
    canvas: np.ndarray, lines: list[tuple[bool, str]], room: Sequence[str] = ()
) -> np.ndarray:
    """The picture with its lines to the right, in as many columns as its height requires."""
    if not lines:
        return canvas
    scale = _text_scale(canvas)
    thickness = max(1, round(1.6 * scale))
    step = round(34 * scale) + 3  # height of a line
    margin = step // 2
    texts = [*room, *(text for _, text in lines)]
    widest = max(cv2.getTextSize(text, FONT, scale, thickness)[0][0] for text in texts)
    most = max((LARGEST_DRAWING - canvas.shape[1] - margin) // (widest + margin), 1)
    rows = max((canvas.shape[0] - 2 * margin) // step, 4)
    columns = min(-(-len(lines) // rows), most)
    rows = min(max(rows, -(-len(lines) // columns)), LARGEST_DRAWING // step - 1)
    if len(lines) > rows * columns:
        shown = rows * columns - 1
        lines = [*lines[:shown], (True, f"+ {len(lines) - shown} lines")]
    height = max(canvas.shape[0], step * min(rows, len(lines)) + 2 * margin)
    width = canvas.shape[1] + columns * (widest + margin) + margin
    out = np.full((height, width, 3), DARK, np.uint8)
    out[: canvas.shape[0], : canvas.shape[1]] = canvas
    for index, (is_title, text) in enumerate(lines):
        column, row = divmod(index, rows)
        left = canvas.shape[1] + margin + column * (widest + margin)
        origin = (left, margin + round((row + 0.7) * step))
        color = TITLE_COLOR if is_title else TEXT_COLOR
        cv2.putText(out, text, origin, FONT, scale, color, thickness, cv2.LINE_AA)
    return out
