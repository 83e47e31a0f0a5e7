"""The part of a picture that a sample is about, however much is known of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trn_plugin.datasets.transforms.face_box import FaceBox
from trn_plugin.errors import ConfigError, DataError
from trn_plugin.registry import TRANSFORMS

__all__ = ["RegionBox"]

SCALE, SHIFT = (0.85, 1.2), 0.07


@TRANSFORMS.register_module()
class RegionBox:
    """Choose ``box`` by the data set's ``box_rule``.

    'columns': the record's ``region``; 'landmarks': a box around its landmarks; 'whole': the whole
    picture; None, as of data sets that have no rule: the region if there is one, else the
    landmarks if there are two or more, else the whole picture.

    A given ``region`` is used as it is, rounded to whole pixels, when evaluating, and in training
    with sides and middle drawn anew each time. Around landmarks the box is that of `FaceBox`, in
    training 'jitter', else 'perturbed'; points that are missing play no part.

    Args:
        training: draw a new box each time.
        scale: (lowest, highest) factor of the sides of a given region in training.
        shift: largest move of its middle along each axis in training, as a fraction of its sides.
        landmarks: arguments of `FaceBox` for boxes around landmarks, such as ``dict(scale=1.5)``.

    Raises:
        ConfigError: if a value cannot be used.
        DataError: if a sample has not what its box is made of, or its landmarks are all one point.
    """

    def __init__(
        self,
        training: bool,
        scale: Sequence[float] = SCALE,
        shift: float = SHIFT,
        landmarks: dict | None = None,
    ) -> None:
        if not isinstance(scale, (list, tuple)) or len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ConfigError(
                f"RegionBox.scale: expected (lowest, highest) factor, found {scale!r}"
            )
        if not 0 <= shift < 0.5:
            raise ConfigError(
                f"RegionBox.shift: expected a fraction from 0 to 0.5, found {shift!r}"
            )
        self.training = bool(training)
        self.scale, self.shift = tuple(scale), shift
        mode = "jitter" if training else "perturbed"
        self.around_landmarks = FaceBox(**{"mode": mode, **(landmarks or {})})
        self.whole = FaceBox("whole")

    def __call__(self, results: dict) -> dict:
        rule, landmarks = results.get("box_rule"), results.get("landmarks")
        if rule == "columns" or (rule is None and results.get("region") is not None):
            return self._given(results)
        if rule == "landmarks" or (rule is None and landmarks is not None and len(landmarks) > 1):
            return self.around_landmarks(results)
        return self.whole(results)

    def _given(self, results: dict) -> dict:
        if results.get("region") is None:
            raise DataError("a box is taken from its columns; this sample has none")
        x0, y0, x1, y1 = results["region"]
        middle = np.array([x0 + x1, y0 + y1]) / 2
        sides = np.array([x1 - x0, y1 - y0])
        results["box_source"], results["box_drawn"] = "given box", self.training
        if self.training:
            low, high = self.scale
            draw, without = results["rng"].random(3), results.get("without", ())
            if "shift" not in without:
                middle += sides * self.shift * (2 * draw[:2] - 1)
            if "scale" not in without:
                sides = sides * (low + (high - low) * draw[2])
            results["box_source"] = "jittered given box"
        x0, y0, x1, y1 = np.concatenate([middle - sides / 2, middle + sides / 2]).round().tolist()
        results["box"] = int(x0), int(y0), max(int(x1), int(x0) + 2), max(int(y1), int(y0) + 2)
        return results

    def crop_rule(self, box: object, points: bool) -> tuple[str, float | None]:
        """What crops are made of, for users of the trained model.

        Args:
            box: the data set's option: 'whole', 'landmarks', names of columns or None.
            points: whether its samples have two or more landmarks.

        Returns:
            'given' and None for boxes of columns, else as of :meth:`FaceBox.crop_rule`.
        """
        if box is not None and not isinstance(box, str):
            return "given", None
        landmarks = box == "landmarks" or (box is None and points)
        return (self.around_landmarks if landmarks else self.whole).crop_rule()

    def __repr__(self) -> str:
        return f"RegionBox(training={self.training}, scale={self.scale}, shift={self.shift})"
