"""The exported model: from pixels to predictions in a user's units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trn_plugin.deploy.metadata import FEATURES, feature_names
from trn_plugin.errors import ConfigError

__all__ = ["RESIZES", "DeployModel", "resize_weights"]

RESIZES = ("operator", "exact", "none")
"""How an exported model resizes: ONNX's antialiased Resize; two matrix products, which all runtimes
compute alike; not at all, for inputs of the network's size."""


class DeployModel(nn.Module):
    """A ``MultiTaskModel`` from pixels to predictions in a user's units.

    Args:
        model: a built ``MultiTaskModel``; used in eval mode on its device.
        input_size: height and width, in pixels, of the network's input.
        tasks: the tasks to output, in this order; default all, in the order of the heads.
        features: also output hidden features and predicted loss targets.
        resize: one of :data:`RESIZES`.

    Attributes:
        outputs (list[str]): names of the outputs, in order.

    Raises:
        ConfigError: the model lacks a task.
    """

    def __init__(
        self,
        model: nn.Module,
        input_size: tuple[int, int],
        tasks: Sequence[str] | None = None,
        features: bool = False,
        resize: str = "operator",
    ):
        super().__init__()
        known = list(model.heads.keys())
        self.tasks = tuple(known if tasks is None else dict.fromkeys(tasks))
        unknown = [task for task in self.tasks if task not in known]
        if unknown or not self.tasks:
            found = f"{unknown[0]!r}" if unknown else "none"
            raise ConfigError(f"tasks: expected some of {', '.join(known)}, found {found}")
        self.model = model
        self.input_size = tuple(int(side) for side in input_size)
        self.features = FEATURES if features else ()
        self.resize = resize
        self.outputs = [*self.tasks, *feature_names(self.features, self.tasks)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run on pictures (N, H, W, 3) RGB of any size, 0..255, uint8 or float.

        Returns:
            tuple[Tensor, ...]: (N, P, 2) landmarks in pixels of the given pictures, (N, C) class
            or (N, A) attribute probabilities, (N, V) values in the labels' units; with
            ``features``, (N, d) inputs of all tasks' last layers, then their predicted loss
            targets.
        """
        height, width = images.shape[1], images.shape[2]
        inputs = self.inputs(images).to(next(self.model.backbone.parameters()).dtype)
        features = self.model.backbone.features(inputs)
        hidden = {task: value.float() for task, value in features.hidden.items()}
        maps = {task: value.float() for task, value in features.maps.items()}
        heads = self.model.heads
        raw = {task: heads[task](maps.get(task, hidden[task])) for task in self.tasks}
        outputs = [heads[task].in_picture(raw[task], width, height) for task in self.tasks]
        activated = {task: heads[task].activate(raw[task]) for task in self.tasks}
        values = dict(zip(FEATURES, (hidden, activated), strict=True))
        outputs += [values[level][task] for level in self.features for task in self.tasks]
        return tuple(outputs)

    def inputs(self, images: Tensor) -> Tensor:
        """The network's input (N, 3, height, width) float32 for pictures (N, H, W, 3).

        Resizing does not round: runtimes differ in the last bit, which rounding can turn into a
        whole grey level.
        """
        inputs = images.permute(0, 3, 1, 2).float()
        if self.resize == "operator":
            inputs = F.interpolate(
                inputs, self.input_size, mode="bilinear", align_corners=False, antialias=True
            )
        elif self.resize == "exact":
            rows, columns = map(resize_weights, images.shape[1:3], self.input_size)
            inputs = rows.to(inputs) @ inputs @ columns.to(inputs).T
        return self.model.data_preprocessor.normalize(inputs)


def resize_weights(side: int, size: int) -> Tensor:
    """Weights (size, side) of an antialiased bilinear resize along one axis.

    The triangle filter of ``F.interpolate(..., mode="bilinear", antialias=True)`` as a matrix: not
    every runtime has that operator.
    """
    scale = torch.scalar_tensor(side, dtype=torch.float32) / size
    centers = (torch.arange(size, dtype=torch.float32) + 0.5) * scale
    pixels = torch.arange(side, dtype=torch.float32) + 0.5
    weights = 1 - (pixels - centers[:, None]).abs() / scale.clamp(min=1)
    weights = weights.clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)
