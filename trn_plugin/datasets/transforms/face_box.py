"""Face boxes around landmarks."""

from __future__ import annotations

from collections.abc import Sequence

from trn_plugin.datasets._options import factor_range
from trn_plugin.datasets.draws import evaluation_generator
from trn_plugin.errors import ConfigError, DataError
from trn_plugin.geometry import square_box
from trn_plugin.registry import TRANSFORMS

__all__ = ["FaceBox"]


@TRANSFORMS.register_module()
class FaceBox:
    """Set ``box``, the part of the picture that the network sees, in whole pixels.

    All modes but 'whole' make a square around the centre of the landmarks' bounding box. Its side
    is the longer side of that box times a factor; its centre is shifted by a fraction of the side.
    A box from exact landmarks leaks their position, so the first two modes add noise:

    - ``jitter``, for training: sampled anew each epoch, from tight crops to loose ones.
    - ``perturbed``, for validation: the same box in every epoch and run, with noise like a face
      detector's error.
    - ``whole``: the entire picture.
    - ``landmarks``: no noise; ``box_source`` says that it leaks the landmarks.

    ``box_source`` describes the box in a few words. The 'whole' box is None until the picture is
    read; `LoadCrop` fills it in.

    Args:
        mode: one of the four.
        scale: (lowest, highest) factor, sampled uniformly, or one number; default by mode.
        shift: largest shift of the centre along each axis, as a fraction of the side, sampled
            uniformly; default by mode.

    Raises:
        ConfigError: an unusable value.
        DataError: a sample has no landmarks, or they coincide.
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
        pair = scale if isinstance(scale, (list, tuple)) else (scale, scale)
        self.scale = default_scale if scale is None else factor_range("FaceBox.scale", pair)
        self.shift = default_shift if shift is None else shift
        if mode == "landmarks" and self.scale[0] != self.scale[1]:
            raise ConfigError(f"FaceBox.scale: a 'landmarks' box takes one number, found {scale!r}")
        if self.shift is not None and not 0 <= self.shift < 0.5:
            raise ConfigError(f"FaceBox.shift: expected a fraction from 0 to 0.5, found {shift!r}")

    def __call__(self, results: dict) -> dict:
        results["box_source"] = self.source
        results["box_sampled"] = self.mode == "jitter"
        if self.mode == "whole":
            shape = results.get("ori_shape")
            results["box"] = None if shape is None else (0, 0, shape[1], shape[0])
            return results
        landmarks = results.get("landmarks")
        if landmarks is None:
            raise DataError(f"a '{self.mode}' box needs landmarks; this sample has none")
        xs, ys = landmarks.T.tolist()  # floats: faster than arrays of two numbers
        extent = max(max(xs) - min(xs), max(ys) - min(ys))
        if extent <= 0:
            raise DataError(f"no box: the landmarks all coincide at {(xs[0], ys[0])}")
        rng = results["rng"]
        if self.mode == "perturbed":
            rng = evaluation_generator(*results["eval_seed"])
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
        """The box in a few words."""
        if self.mode == "whole":
            return "whole picture"
        low, high = self.scale
        if self.mode == "landmarks":
            return f"exact landmarks' box x {low:g} (leaks the landmarks)"
        name = {"jitter": "jittered", "perturbed": "perturbed"}[self.mode]
        return f"{name} landmarks' box x {low:g}-{high:g}, shift {100 * self.shift:g} %"

    def crop_rule(self, box: object = None, points: bool = True) -> tuple[str, float | None]:
        """How a user of the trained model should cut crops.

        Args:
            box, points: see :meth:`RegionBox.crop_rule`.

        Returns:
            'whole' and None, or 'points' and the mean factor of the landmarks' box.
        """
        return ("whole", None) if self.mode == "whole" else ("points", sum(self.scale) / 2)
