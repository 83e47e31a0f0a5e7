"""What transforms behind the crop ask for."""

from __future__ import annotations

from trn_plugin.errors import ConfigError

__all__ = ["require_crop"]


def require_crop(results: dict, transform: str) -> tuple[int, int]:
    """The crop's (height, width).

    Raises:
        ConfigError: before `CropResize`, where landmarks are not yet fractions of the crop.
    """
    if "crop_shape" not in results:
        raise ConfigError(f"{transform}: put it after CropResize in the pipeline")
    return results["crop_shape"]
