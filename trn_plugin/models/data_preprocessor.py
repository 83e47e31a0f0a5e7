"""Stack, move and normalise a batch of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from trn_plugin.errors import ConfigError, DataError
from trn_plugin.registry import MODELS

__all__ = ["MultiTaskDataPreprocessor"]


@MODELS.register_module()
class MultiTaskDataPreprocessor(BaseDataPreprocessor):
    """Stacks (3, H, W) uint8 RGB pictures and normalises them to (x - mean) / std.

    Args:
        mean (Sequence[float], optional): by channel, in 0..255; ``MultiTaskModel`` passes that of
            the backbone by default.
        std (Sequence[float], optional): likewise.
        non_blocking (bool): whether copies to the device may overlap with computation.

    Raises:
        ConfigError: mean or std missing, or a std that is not positive.
        DataError: pictures of different sizes in one batch.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        if mean is None or std is None or len(mean) != len(std) or min(std) <= 0:
            raise ConfigError(
                "model.data_preprocessor: expected mean and std (> 0) of the same length, in "
                f"0..255, found mean={mean}, std={std}"
            )
        # not persistent: the config has them
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value).float().view(-1, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..255 -> normalised float32."""
        return (images.float() - self.mean) / self.std

    def forward(self, data: dict, training: bool = False) -> dict:
        """Collated batch -> dict(inputs=(N, 3, H, W) float32, data_samples as given or None)."""
        samples = self.cast_data(data.get("data_samples"))
        inputs = self.cast_data(data["inputs"])
        if not torch.is_tensor(inputs):
            shapes = {tuple(image.shape) for image in inputs}
            if len(shapes) != 1:
                raise DataError(f"pictures of one batch differ in shape: {sorted(shapes)}")
            inputs = torch.stack(list(inputs))
        return {"inputs": self.normalize(inputs), "data_samples": samples}
