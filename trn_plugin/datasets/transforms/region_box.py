"""Boxes from columns, from landmarks, or of the whole picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trn_plugin.datasets._options import factor_range
from trn_plugin.datasets.transforms.face_box import FaceBox
from trn_plugin.errors import ConfigError, DataError
from trn_plugin.registry import TRANSFORMS

__all__ = ["RegionBox"]

SCALE, SHIFT = (0.85, 1.2), 0.07


@TRANSFORMS.register_module()
class RegionBox:
    """Set ``box`` by the data set's ``box_rule``.

    The rule is 'columns' (the record's ``region``), 'landmarks' (a box around the landmarks),
    'whole' (the whole picture), or None: ``region`` if the record has one, else 'landmarks' if it
    has two points or more, else 'whole'.

    Evaluation rounds a ``region`` to whole pixels; training samples its sides and centre anew each
    time. The box around the landmarks is that of `FaceBox`, in training with mode 'jitter', else
    'perturbed'.

    Args:
        training: sample a new box each time.
        scale: (lowest, highest) factor of a region's sides in training.
        shift: largest shift of a region's centre along each axis in training, as a fraction of its
            sides.
        landmarks: arguments of `FaceBox` for boxes around landmarks, such as ``dict(scale=1.5)``.

    Raises:
        ConfigError: an unusable value.
        DataError: a sample lacks the source of its box, or its landmarks coincide.
    """

    def __init__(
        self,
        training: bool,
        scale: Sequence[float] = SCALE,
        shift: float = SHIFT,
        landmarks: dict | None = None,
    ) -> None:
        if not 0 <= shift < 0.5:
            raise ConfigError(
                f"RegionBox.shift: expected a fraction from 0 to 0.5, found {shift!r}"
            )
        self.training = bool(training)
        self.scale, self.shift = factor_range("RegionBox.scale", scale), shift
        mode = "jitter" if training else "perturbed"
        self.around_landmarks = FaceBox(**{"mode": mode, **(landmarks or {})})
        self.whole = FaceBox("whole")

    def __call__(self, results: dict) -> dict:
        rule, landmarks = results.get("box_rule"), results.get("landmarks")
        if rule == "columns" or (rule is None and results.get("region") is not None):
            return self._from_region(results)
        if rule == "landmarks" or (rule is None and landmarks is not None and len(landmarks) > 1):
            return self.around_landmarks(results)
        return self.whole(results)

    def _from_region(self, results: dict) -> dict:
        if results.get("region") is None:
            raise DataError("expected a box in this sample's columns, found none")
        x0, y0, x1, y1 = results["region"]
        centre = np.array([x0 + x1, y0 + y1]) / 2
        sides = np.array([x1 - x0, y1 - y0])
        results["box_source"], results["box_sampled"] = "given box", self.training
        if self.training:
            low, high = self.scale
            draw, without = results["rng"].random(3), results.get("without", ())
            if "shift" not in without:
                centre += sides * self.shift * (2 * draw[:2] - 1)
            if "scale" not in without:
                sides = sides * (low + (high - low) * draw[2])
            results["box_source"] = "jittered given box"
        x0, y0, x1, y1 = np.concatenate([centre - sides / 2, centre + sides / 2]).round().tolist()
        results["box"] = int(x0), int(y0), max(int(x1), int(x0) + 2), max(int(y1), int(y0) + 2)
        return results

    def crop_rule(self, box: object, points: bool) -> tuple[str, float | None]:
        """How a user of the trained model should cut crops.

        Args:
            box: option ``box`` of the data set: 'whole', 'landmarks', names of columns or None.
            points: whether its samples have two or more landmarks.

        Returns:
            'given' and None for boxes from columns, else as of :meth:`FaceBox.crop_rule`.
        """
        if box is not None and not isinstance(box, str):
            return "given", None
        landmarks = box == "landmarks" or (box is None and points)
        return (self.around_landmarks if landmarks else self.whole).crop_rule()
