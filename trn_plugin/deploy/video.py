"""Read and write videos. numpy and OpenCV only."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # unreadable files raise errors instead

import cv2
import numpy as np

from trn_plugin.errors import DataError

__all__ = ["VideoFile", "VideoOutput"]

USUAL_RATE = 25.0
FASTEST_RATE = 1000.0


class VideoFile:
    """A video to read.

    Args:
        path: the file.

    Attributes:
        rate (float): frames per second; 25 if the file does not say.
        expected (int): number of frames according to the file; 0 if it does not say.

    Raises:
        DataError: the file cannot be opened as a video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise DataError(f"{path}: not a readable video")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= FASTEST_RATE else USUAL_RATE
        self.expected = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 RGB, in order, once.

        Raises:
            DataError: there is no readable frame.
        """
        found = False
        try:
            while True:
                read, frame = self._capture.read()
                if not read or frame is None:
                    break
                found = True
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            self._capture.release()
        if not found:
            raise DataError(f"{self.path}: a video without a readable frame")


class VideoOutput:
    """An .mp4 file (MPEG-4) to write, of the first frame's size.

    Args:
        path: the file.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self.rate = rate
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: np.ndarray) -> None:
        """Append (H, W, 3) uint8 RGB, cropped or padded to the first frame's size.

        Raises:
            DataError: the video cannot be written.
        """
        if self._writer is None:
            height, width = (
                side + side % 2 for side in frame.shape[:2]
            )  # many players need even sides
            self._size = height, width
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self.rate, (width, height))
            if not self._writer.isOpened():
                raise DataError(f"{self.path}: this OpenCV cannot write the video")
        height, width = self._size
        fitted = np.zeros((height, width, 3), np.uint8)
        inside = frame[:height, :width]
        fitted[: inside.shape[0], : inside.shape[1]] = inside
        self._writer.write(cv2.cvtColor(fitted, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
