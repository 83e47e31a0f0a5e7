"""Binary attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from trn_plugin.errors import ConfigError
from trn_plugin.models.heads.base import TaskHead
from trn_plugin.registry import MODELS
from trn_plugin.tasks import AttributeTask

__all__ = ["AttributeHead"]


@MODELS.register_module()
class AttributeHead(TaskHead):
    """Binary attributes with binary cross entropy, mean over the attributes.

    Args:
        num_attributes (int): A.
        pos_weight (Sequence[float] or 'balanced', optional): factor of each attribute's loss for
            positive labels. 'balanced' takes (1 - p) / p, where p is the share of positive
            training labels (1 if all or none are).
        **options: ``loss_weight`` and ``names``, see ``TaskHead``.

    Raises:
        ConfigError: the number of names or weights is not that of attributes, or a weight is not
            a positive number.
    """

    task_type = AttributeTask

    def __init__(
        self,
        num_attributes: int,
        in_features: int,
        pos_weight: Sequence[float] | str | None = None,
        **options,
    ) -> None:
        super().__init__(num_attributes, in_features, **options)
        self.num_attributes = num_attributes
        weights = None
        if isinstance(pos_weight, str) and pos_weight == "balanced":
            weights, self.waits_for = torch.ones(num_attributes), "pos_weight"
        elif pos_weight is not None:
            weights = self._checked(pos_weight)
        # not persistent: it comes from the config or the training labels
        self.register_buffer("pos_weight", weights, persistent=False)

    def take(self, key: str, labels: np.ndarray) -> None:
        """Set the weights (1 - p) / p from shares p (A,) of positive labels."""
        share = torch.as_tensor(labels, dtype=torch.float64).mean(0)
        weights = torch.where((share > 0) & (share < 1), (1 - share) / share, 1.0)
        self.pos_weight.copy_(weights)
        print_log(f"{key}: {[round(w, 2) for w in self.pos_weight.tolist()]}", "current")

    def _checked(self, weights: object) -> Tensor:
        listed = list(weights) if isinstance(weights, (list, tuple)) else []
        numbers = all(isinstance(w, (int, float)) and 0 < w < float("inf") for w in listed)
        if len(listed) != self.num_attributes or not numbers:
            raise ConfigError(
                f"AttributeHead.pos_weight: expected 'balanced' or {self.num_attributes} numbers "
                f"> 0, found {weights!r}"
            )
        return torch.tensor(listed).float()

    def sample_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """(N, A) logits, (N, A) -> (N,)."""
        return F.binary_cross_entropy_with_logits(
            output, targets, pos_weight=self.pos_weight, reduction="none"
        ).mean(1)

    def activate(self, output: Tensor) -> Tensor:
        """(N, A) logits -> probabilities (N, A)."""
        return torch.sigmoid(output.float())

    predict = activate
