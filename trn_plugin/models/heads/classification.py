"""Classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trn_plugin.errors import ConfigError
from trn_plugin.models.heads.base import TaskHead
from trn_plugin.registry import MODELS
from trn_plugin.tasks import ClassTask

__all__ = ["ClassificationHead"]


@MODELS.register_module()
class ClassificationHead(TaskHead):
    """Softmax classification with cross entropy.

    Args:
        num_classes (int): C.
        label_smoothing (float): as in ``torch.nn.CrossEntropyLoss``.
        class_weights (Sequence[float], optional): factor of each class's loss, for unbalanced
            classes.
        **options: ``loss_weight`` and ``names``, see ``TaskHead``.

    Raises:
        ConfigError: the number of names or weights is not that of classes, or a weight < 0.
    """

    task_type = ClassTask

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        **options,
    ) -> None:
        super().__init__(num_classes, in_features, **options)
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        if class_weights is not None and (
            len(class_weights) != num_classes or min(class_weights) < 0
        ):
            raise ConfigError(
                f"ClassificationHead.class_weights: expected {num_classes} numbers >= 0, "
                f"found {list(class_weights)}"
            )
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer("class_weights", weights, persistent=False)

    def sample_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """(N, C) logits, (N, C) one-hot -> (N,)."""
        return F.cross_entropy(
            output,
            targets,
            weight=self.class_weights,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def activate(self, output: Tensor) -> Tensor:
        """(N, C) logits -> probabilities (N, C)."""
        return torch.softmax(output.float(), dim=1)

    predict = activate
