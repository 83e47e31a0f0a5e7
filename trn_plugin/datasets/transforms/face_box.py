"""Face boxes made from landmarks, and how each kind is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trn_plugin.errors import ConfigError, DataError
from trn_plugin.geometry import square_box
from trn_plugin.registry import TRANSFORMS

__all__ = ["FaceBox"]


@TRANSFORMS.register_module()
class FaceBox:
    """Choose the part of the picture that the network sees, as ``box`` in whole pixels.

    All but 'whole' make a square around the middle of the landmarks' bounding box. Its side is
    max(width, height) of that box times a factor; its middle is moved by a fraction of the side.
    A box made from the exact landmarks tells where they are, so the modes differ in their noise:

    - ``jitter``, for training: a new draw each epoch, from tight crops, in which the face fills
      the frame, to loose ones.
    - ``perturbed``, for validation: the same draw in every epoch and run, as wrong as a face
      detector's box.
    - ``whole``: the entire picture.
    - ``landmarks``: no noise; this box leaks the landmarks and says so.

    ``box_source`` names the box in a few words. Before the picture is read, the 'whole' box is
    None; `LoadCrop` then fills it in.

    Args:
        mode: one of the four.
        scale: (lowest, highest) factor, drawn uniformly, or one number; None takes the mode's.
        shift: largest move of the middle along each axis, as a fraction of the side, drawn
            uniformly; None takes the mode's.

    Raises:
        ConfigError: if a value cannot be used.
        DataError: if a sample has no landmarks to make a box from, or they are one point.
    """

    DEFAULTS = {
        "jitter": ((1.6, 3.0), 0.1),
        "perturbed": ((1.98, 2.42), 0.07),
        "landmarks": ((2.2, 2.2), 0.0),
        "whole": (None, None),
    }

    def __init__(
        self,
        mode: str,
        scale: float | Sequence[float] | None = None,
        shift: float | None = None,
    ) -> None:
        if mode not in self.DEFAULTS:
            raise ConfigError(
                f"FaceBox.mode: expected one of {list(self.DEFAULTS)}, found {mode!r}"
            )
        if mode == "whole" and (scale, shift) != (None, None):
            raise ConfigError("FaceBox: a 'whole' box takes no scale and no shift")
        if mode == "landmarks" and shift:
            raise ConfigError(f"FaceBox: a 'landmarks' box takes no shift, found {shift!r}")
        default_scale, default_shift = self.DEFAULTS[mode]
        self.mode = mode
        self.scale = default_scale if scale is None else _range(scale)
        self.shift = default_shift if shift is None else shift
        if mode == "landmarks" and self.scale[0] != self.scale[1]:
            raise ConfigError(f"FaceBox.scale: a 'landmarks' box takes one number, found {scale!r}")
        if self.shift is not None and not 0 <= self.shift < 0.5:
            raise ConfigError(f"FaceBox.shift: expected a fraction from 0 to 0.5, found {shift!r}")

    def __call__(self, results: dict) -> dict:
        results["box_source"] = self.source
        results["box_drawn"] = self.mode == "jitter"
        if self.mode == "whole":
            shape = results.get("ori_shape")
            results["box"] = None if shape is None else (0, 0, shape[1], shape[0])
            return results
        landmarks = results.get("landmarks")
        if landmarks is None:
            raise DataError(f"a '{self.mode}' box is made from landmarks; this sample has none")
        xs, ys = landmarks.T.tolist()  # floats: arrays of two numbers cost more than the sums
        extent = max(max(xs) - min(xs), max(ys) - min(ys))
        if extent <= 0:
            raise DataError(f"no box around landmarks that are all one point, {(xs[0], ys[0])}")
        rng = results["eval_rng" if self.mode == "perturbed" else "rng"]
        factor, right, down = rng.random(3).tolist()
        if self.mode == "jitter":
            without = results.get("without", ())
            factor = 0.5 if "scale" in without else factor
            right, down = (0.5, 0.5) if "shift" in without else (right, down)
        side = extent * (self.scale[0] + (self.scale[1] - self.scale[0]) * factor)
        x = (min(xs) + max(xs)) / 2 + side * self.shift * (2 * right - 1)
        y = (min(ys) + max(ys)) / 2 + side * self.shift * (2 * down - 1)
        results["box"] = square_box((x, y), side)
        return results

    @property
    def source(self) -> str:
        """The box in a few words, as results name it."""
        if self.mode == "whole":
            return "whole picture"
        low, high = self.scale
        if self.mode == "landmarks":
            return f"exact landmarks' box x {low:g} (leaks the landmarks)"
        name = {"jitter": "jittered", "perturbed": "perturbed"}[self.mode]
        return f"{name} landmarks' box x {low:g}-{high:g}, shift {100 * self.shift:g} %"

    def crop_rule(self, box: object = None, points: bool = True) -> tuple[str, float | None]:
        """What crops are made of, for users of the trained model.

        Args:
            box, points: see :meth:`RegionBox.crop_rule`.

        Returns:
            'whole' and None, or 'points' and the mean factor of the landmarks' box.
        """
        return ("whole", None) if self.mode == "whole" else ("points", sum(self.scale) / 2)

    def __repr__(self) -> str:
        return f"FaceBox(mode={self.mode!r}, scale={self.scale}, shift={self.shift})"


def _range(scale: float | Sequence[float]) -> tuple[float, float]:
    low, high = scale if isinstance(scale, (list, tuple)) and len(scale) == 2 else (scale, scale)
    numbers = all(isinstance(value, (int, float)) for value in (low, high))
    if not (numbers and 0 < low <= high and math.isfinite(high)):
        raise ConfigError(f"FaceBox.scale: expected (lowest, highest) factor, found {scale!r}")
    return low, high
