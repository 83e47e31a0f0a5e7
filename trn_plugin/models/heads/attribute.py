"""Binary attributes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trn_plugin.models.heads.base import TaskHead
from trn_plugin.registry import MODELS

__all__ = ["AttributeHead"]


@MODELS.register_module()
class AttributeHead(TaskHead):
    """Several yes-or-no questions with binary cross entropy, mean over the attributes.

    Args:
        num_attributes (int): A.
        in_features (int): width of the hidden features.
        loss_weight (float): factor of the loss.
        names (Sequence[str], optional): the attributes' names.

    Raises:
        ConfigError: another number of names than attributes.
    """

    kind = "attributes"

    def __init__(
        self,
        num_attributes: int,
        in_features: int,
        loss_weight: float = 1.0,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(num_attributes, in_features, loss_weight, names, num_attributes)
        self.num_attributes = num_attributes

    def encode_one(self, label: Tensor) -> Tensor:
        """(A,) of 0 and 1 -> the same as float; a scalar will do for one attribute."""
        valid = label.numel() == self.num_attributes and ((label == 0) | (label == 1)).all()
        if not valid:
            raise self._misfit(label, f"{self.num_attributes} values 0 or 1")
        return label.reshape(-1).float()

    def sample_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """(N, A) logits, (N, A) -> (N,)."""
        return F.binary_cross_entropy_with_logits(output, targets, reduction="none").mean(1)

    def predict(self, output: Tensor) -> Tensor:
        """(N, A) logits -> probabilities (N, A)."""
        return torch.sigmoid(output.float())
