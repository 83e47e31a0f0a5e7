"""Detect faces with OpenCV's YuNet, or objects with a user's function."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from trn_plugin.errors import CheckpointError, ConfigError, printable, shown

__all__ = ["Detection", "Detector", "FaceDetector", "detections"]

LARGEST_SIDE = 1280
"""Pixels of the longer side for detection; YuNet finds faces of up to about 300 pixels."""


class Detection(NamedTuple):
    """A detected object.

    Attributes:
        box (tuple): x0, y0, x1, y1 in pixels.
        points (np.ndarray | None): (P, 2) in pixels, such as eyes, nose and corners of the mouth.
    """

    box: tuple[float, float, float, float]
    points: np.ndarray | None = None


Detector = Callable[[np.ndarray], Any]
"""A function from a picture (H, W, 3) uint8 RGB to its objects: boxes or `Detection`."""


class FaceDetector:
    """OpenCV's ``FaceDetectorYN``, thread-safe.

    Args:
        path: a YuNet model, ``face_detection_yunet_*.onnx`` of OpenCV's model zoo.
        score: lowest confidence of a face, 0 to 1.

    Raises:
        CheckpointError: the file is missing, or OpenCV cannot run it.
    """

    def __init__(self, path: str, score: float = 0.7) -> None:
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such file; expected a YuNet face detector")
        self.path = path
        self._lock = threading.Lock()
        try:
            self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score)
        except cv2.error as error:
            raise self._not_yunet(error) from error

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """The faces in (H, W, 3) uint8 RGB, most confident first."""
        height, width = image.shape[:2]
        factor = min(LARGEST_SIDE / max(height, width), 1.0)
        size = max(round(width * factor), 1), max(round(height * factor), 1)
        scaled = cv2.cvtColor(cv2.resize(image, size), cv2.COLOR_RGB2BGR)
        try:
            with self._lock:
                self._net.setInputSize(size)
                found = self._net.detect(scaled)[1]
        except cv2.error as error:
            raise self._not_yunet(error) from error
        scale = np.divide((width, height), size)
        faces = []
        for row in found if found is not None else ():
            corner, sides = row[:2] * scale, row[2:4] * scale
            box = tuple(float(value) for value in (*corner, *(corner + sides)))
            faces.append(Detection(box, row[4:14].reshape(5, 2) * scale))
        return faces

    def _not_yunet(self, error: cv2.error) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: OpenCV cannot run it as a YuNet face detector: {printable(error.err)}"
        )


def detections(detector: Detector, image: np.ndarray, where: str) -> list[Detection]:
    """Run a detector on (H, W, 3) uint8 RGB and check its output.

    Args:
        detector: the function.
        image: the picture.
        where: its name in messages.

    Raises:
        ConfigError: a box that is not four finite numbers with x0 < x1 and y0 < y1, or points that
            are not finite numbers (P, 2).
    """
    given, found = detector(image), []
    for each in given if isinstance(given, Iterable) else [given]:
        box, points = each if isinstance(each, Detection) else (each, None)
        corners = _numbers(box)
        if corners.shape != (4,) or not (corners[:2] < corners[2:]).all():
            raise ConfigError(
                f"{where}: expected boxes x0, y0, x1, y1 from the detector, x0 < x1 and y0 < y1, "
                f"found {shown(box)}"
            )
        if points is not None and _numbers(points).shape[1:] != (2,):
            raise ConfigError(
                f"{where}: expected points (P, 2) from the detector, finite, found {shown(points)}"
            )
        points = None if points is None else np.asarray(points, dtype=float)
        found.append(Detection(tuple(corners.tolist()), points))
    return found


def _numbers(given: Any) -> np.ndarray:
    """An array of finite numbers; empty for any other input."""
    try:
        numbers = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        return np.zeros(0)
    return numbers if np.isfinite(numbers).all() else np.zeros(0)
