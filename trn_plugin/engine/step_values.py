"""Losses, norms of gradients and statistics of a training step, and their names in messages."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["Losses", "is_of", "losses_text", "norms_of", "statistics_of"]


class Losses(dict):
    """Forward hook of a model: its losses since the last step, by name."""

    def __call__(self, module, inputs, output) -> None:
        if module.training and isinstance(output, dict):
            for name, value in output.items():
                values = value if isinstance(value, (list, tuple)) else [value]
                if "loss" in name and all(torch.is_tensor(v) for v in values):
                    self.setdefault(name, []).extend(v.detach() for v in values)

    def __deepcopy__(self, memo):
        return Losses()  # a copy of the model has had no step


def norms_of(gradients: list[torch.Tensor], order: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of all gradients together, as ``torch.nn.utils.get_total_norm``, and each one's."""
    if not gradients:
        return torch.zeros(()), torch.zeros(0)
    if len({(gradient.dtype, gradient.device) for gradient in gradients}) == 1:
        each = torch.stack(torch._foreach_norm(gradients, order))
    else:
        device = gradients[0].device
        norms = [torch.linalg.vector_norm(gradient, order) for gradient in gradients]
        each = torch.stack([norm.to(device, torch.float32) for norm in norms])
    return torch.linalg.vector_norm(each, order), each


def is_of(task: str, names: list[str]) -> bool:
    """Whether parameters of these names are of a task."""
    return any(task in name.split(".")[:-1] for name in names)


def losses_text(bad: dict[str, float]) -> str | None:
    """Which losses are what; None where there are none."""
    named = {key: value for key, value in bad.items() if key != "loss"} or bad
    return " and ".join(f"{_loss_name(key)} is {value}" for key, value in named.items()) or None


def _loss_name(key: str) -> str:
    level = key.removeprefix("loss_relation_")
    if level != key:
        return f"the relation loss of level {level!r}"
    task = key.removeprefix("loss_")
    return f"the loss of task {task!r}" if task != key else repr(key)


def statistics_of(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The buffers that a forward pass changes in normalisation layers, with copies of them."""
    return [
        (buffer, buffer.clone())
        for module in model.modules()
        if isinstance(module, _NormBase)
        for buffer in module.buffers(recurse=False)
    ]
