"""Draw predictions on a picture: points and box on it, classes and attributes beside it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from trn_plugin.tasks import Task

__all__ = ["draw_faces", "summary_lines"]

SHORTEST_SIDE = 320
LONGEST_UPSCALED_SIDE = 1600
FONT = cv2.FONT_HERSHEY_SIMPLEX

BOX_COLOR = (255, 196, 0)
POINT_COLOR = (64, 255, 96)
DARK = (24, 24, 24)
TEXT_COLOR = (240, 240, 240)
TITLE_COLOR = (255, 196, 0)


def summary_lines(tasks: dict[str, Task], prediction: dict, limit: int | None = None) -> list[str]:
    """Classes, values and attributes of one face as short lines; landmarks have none.

    Args:
        tasks: :attr:`TaskPredictor.tasks`.
        prediction: one element of what :meth:`TaskPredictor.predict` gives.
        limit: at most so many lines: of the attributes only those farthest from a probability of
            one half, and a last line that counts the others.
    """
    found = [line for name, task in tasks.items() for line in task.summary(prediction[name])]
    lines = [line.text for line in found if line.certainty is None]
    others = [line for line in found if line.certainty is not None]
    room = len(others) if limit is None else max(limit - len(lines), 0)
    chosen = others
    if len(others) > room:
        certain = sorted(others, key=lambda line: -line.certainty)[: max(room - 1, 0)]
        chosen = [line for line in others if line in certain]
    lines += [line.text for line in chosen]
    if len(chosen) < len(others):
        lines.append(f"+ {len(others) - len(chosen)} less certain")
    return lines if limit is None else lines[: max(limit, 0)]


def draw_faces(
    image: np.ndarray,
    tasks: dict[str, Task],
    predictions: Sequence[dict],
    boxes: Sequence[tuple[int, int, int, int] | None] | None = None,
    steady: bool = False,
) -> np.ndarray:
    """A copy of the picture with what was predicted for its faces.

    A small picture is enlarged first; the text stands beside the picture and hides none of it.

    Args:
        image: (H, W, 3) uint8 RGB.
        tasks: :attr:`TaskPredictor.tasks`.
        predictions: one for each face, from :meth:`TaskPredictor.predict`.
        boxes: the box of each face in pixels; None is the whole picture and is not drawn.
        steady: leave room for the longest text that the tasks can have, so that the frames of a
            video stay of one size.

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
            _draw_points(canvas, task.points(prediction[name]) * factor, side)
    room = _longest_lines(tasks) if steady else []
    return _with_panel(canvas, _sections(canvas, tasks, predictions), room)


def _longest_lines(tasks: dict[str, Task]) -> list[str]:
    return [line for task in tasks.values() for line in task.longest_summary()]


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


def _draw_points(canvas: np.ndarray, points: np.ndarray, side: float) -> None:
    # Drawn with four fractional bits, so that a point is not moved to a whole pixel.
    bits = 4
    radius = float(np.clip(side / 80, 2.2, 12))
    for x, y in points:
        if not (np.isfinite(x) and np.isfinite(y)) or max(abs(x), abs(y)) > 2**15:
            continue
        # A pixel's centre has whole coordinates in OpenCV, and n + 1/2 in ours.
        center = (round((float(x) - 0.5) * 2**bits), round((float(y) - 0.5) * 2**bits))
        for extra, color in ((max(1.0, radius / 2), DARK), (0.0, POINT_COLOR)):
            reach = round((radius + extra) * 2**bits)
            cv2.circle(canvas, center, reach, color, cv2.FILLED, cv2.LINE_AA, bits)


def _text_scale(canvas: np.ndarray) -> float:
    return float(np.clip(min(canvas.shape[:2]) / 800, 0.45, 3))


def _line_height(canvas: np.ndarray) -> int:
    return round(34 * _text_scale(canvas)) + 3


def _sections(
    canvas: np.ndarray, tasks: dict[str, Task], predictions: Sequence[dict]
) -> list[tuple[bool, str]]:
    """The panel's lines, as (is it a title, text), cut to the picture's height where possible."""
    lines = max(canvas.shape[0] // _line_height(canvas) - 1, 4)
    titled = len(predictions) > 1
    each = max(lines // max(len(predictions), 1) - titled, 1)
    panel = []
    for number, prediction in enumerate(predictions, start=1):
        found = summary_lines(tasks, prediction, each)
        if titled and found:
            panel.append((True, f"face {number}"))
        panel += [(False, line) for line in found]
    if len(panel) > lines:
        faces = sum(is_title for is_title, _ in panel[lines - 1 :])
        panel = [*panel[: lines - 1], (True, f"+ {faces} faces")]
    return panel


def _with_panel(
    canvas: np.ndarray, lines: list[tuple[bool, str]], room: Sequence[str] = ()
) -> np.ndarray:
    if not lines:
        return canvas
    scale = _text_scale(canvas)
    thickness = max(1, round(1.6 * scale))
    step = _line_height(canvas)
    margin = step // 2
    texts = [*room, *(text for _, text in lines)]
    widest = max(cv2.getTextSize(text, FONT, scale, thickness)[0][0] for text in texts)
    height = max(canvas.shape[0], step * len(lines) + 2 * margin)
    drawn = np.full((height, canvas.shape[1] + widest + 2 * margin, 3), DARK, np.uint8)
    drawn[: canvas.shape[0], : canvas.shape[1]] = canvas
    for row, (is_title, text) in enumerate(lines):
        origin = (canvas.shape[1] + margin, margin + round((row + 0.7) * step))
        color = TITLE_COLOR if is_title else TEXT_COLOR
        cv2.putText(drawn, text, origin, FONT, scale, color, thickness, cv2.LINE_AA)
    return drawn
