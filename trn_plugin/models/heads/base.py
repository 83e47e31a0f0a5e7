"""What all heads share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError, DataError
from trn_plugin.models._reduce import mean_over_labelled

__all__ = ["TaskHead"]


class TaskHead(nn.Module):
    """A task's last layer, a linear map of its hidden features.

    Args:
        out_features (int): width of the raw output.
        in_features (int): width of the hidden features; ``MultiTaskModel`` passes it.
        loss_weight (float): factor of this task's loss.
        names (Sequence[str], optional): what the predictions are called, one name each.
        num_names (int): number of points, classes, attributes or values.

    Subclasses say how a label becomes a loss target (``encode_one``), the loss of each sample
    (``sample_loss``) and what the raw output means (``predict``).
    """

    kind: str

    def __init__(
        self,
        out_features: int,
        in_features: int,
        loss_weight: float = 1.0,
        names: Sequence[str] | None = None,
        num_names: int = 0,
    ) -> None:
        super().__init__()
        if out_features < 1:
            raise ConfigError(f"{type(self).__name__}: expected at least one output")
        if names is not None and len(names) != num_names:
            raise ConfigError(
                f"{type(self).__name__}.names: expected {num_names} names, got {len(names)}"
            )
        self.out_features = out_features
        self.num_names = num_names
        self.loss_weight = loss_weight
        self.names = None if names is None else tuple(names)
        self.fc = nn.Linear(in_features, out_features)
        nn.init.trunc_normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, in_features) -> raw outputs (N, out_features)."""
        return self.fc(hidden)

    def encode(
        self, labels: Sequence[Tensor | None], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Labels of a batch as loss targets.

        Args:
            labels: one label a sample, None where the sample has none.
            device: of the result.

        Returns:
            targets (N, out_features) float32, 0 where there is no label, and the mask (N,) bool
            of the samples that have one.

        Raises:
            DataError: a label that does not fit this head.
        """
        targets = torch.zeros(len(labels), self.out_features)
        mask = torch.zeros(len(labels), dtype=torch.bool)
        for row, label in enumerate(labels):
            if label is not None:
                targets[row] = self.encode_one(torch.as_tensor(label))
                mask[row] = True
        return targets.to(device, non_blocking=True), mask.to(device, non_blocking=True)

    def loss(self, output: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """0-d: mean loss over the labelled samples of all ranks, times ``loss_weight``."""
        with torch.autocast(output.device.type, enabled=False):
            losses = self.sample_loss(output.float(), targets)
        return self.loss_weight * mean_over_labelled(losses, mask)

    def fit_to_labels(self, task: str, dataset) -> None:
        """Take from the training labels what the head needs to know of them; most need nothing.

        Args:
            task: the head's name.
            dataset: of the training.

        Raises:
            ConfigError: the data set cannot tell.
        """

    def check_labels(self, task: str, info: Mapping) -> None:
        """Refuse labels of another kind or number, as a data set's metainfo describes them.

        Raises:
            ConfigError: names the task, what the head expects and what the data set has.
        """
        names = info.get("classes" if self.kind == "class" else "names", ())
        if info.get("kind") != self.kind or len(names) != self.num_names:
            raise ConfigError(
                f"model.heads.{task}: {type(self).__name__} expects {self.num_names} of kind "
                f"{self.kind!r}, the data set has {len(names)} of kind {info.get('kind')!r}"
            )

    def encode_one(self, label: Tensor) -> Tensor:
        raise NotImplementedError

    def sample_loss(self, output: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def activate(self, output: Tensor) -> Tensor:
        """(N, out_features) raw output -> what is compared with the loss targets, float32."""
        return output.float()

    def predict(self, output: Tensor) -> Tensor:
        raise NotImplementedError

    def _misfit(self, label: Tensor, expected: str) -> DataError:
        found = f"shape {tuple(label.shape)}" if label.numel() > 1 else f"{label.tolist()}"
        return DataError(f"{type(self).__name__}: expected a label of {expected}, got {found}")
