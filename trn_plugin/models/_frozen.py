"""Freeze the first stages of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trn_plugin.models._unused import tensors_in

__all__ = ["freeze"]


def freeze(model: nn.Module, boundary: str | None, probe: Tensor) -> dict[str, nn.Module]:
    """Freeze the parameters that a model uses up to ``boundary``, a module or list of modules.

    ``boundary`` None freezes all; ``probe`` are example pictures. Returns the modules that finish
    before the boundary, by name, which are to stay in eval mode.
    """
    modules = dict(model.named_modules())
    if boundary is None:
        model.requires_grad_(False)
        return modules
    outputs: dict[str, object] = {}  # in order of the last calls

    def note(name, out):
        outputs.pop(name, None)
        outputs[name] = out

    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: note(name, out))
        for name, module in modules.items()
    ]
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            model(probe)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    names = list(outputs)
    # a list of modules is never called itself, only its blocks
    last = [name for name in names if f"{name}.".startswith(f"{boundary}.")][-1]
    out = sum(t.sum() for t in tensors_in(outputs[last]) if t.requires_grad)
    parameters = list(model.parameters())
    grads = torch.autograd.grad(out, parameters, allow_unused=True)
    for parameter, grad in zip(parameters, grads, strict=True):
        if grad is not None:
            parameter.requires_grad_(False)
    return {name: modules[name] for name in names[: names.index(last) + 1]}
