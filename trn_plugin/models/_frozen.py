"""Freeze the first stages of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trn_plugin.models._values import tensors_in

__all__ = ["freeze"]


def freeze(model: nn.Module, boundary: str | None, probe: Tensor) -> dict[str, nn.Module]:
    """Freeze all parameters that are used up to the end of a module.

    Args:
        model (nn.Module): takes ``probe``.
        boundary (str, optional): dotted name of a module or a list of modules; default the whole
            model.
        probe (Tensor): (N, C, H, W) pictures.

    Returns:
        dict[str, nn.Module]: the modules that finish before the boundary; keep them in eval mode.
    """
    modules = dict(model.named_modules())
    if boundary is None:
        model.requires_grad_(False)
        return modules
    ends: dict[str, int] = {}
    values = []

    def note(name, out):
        ends[name] = len(values)
        if f"{name}.".startswith(f"{boundary}."):
            values.append(out)

    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: note(name, out))
        for name, module in modules.items()
    ]
    # of modules still running at the boundary, freeze the parameters that its output depends on
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            model(probe)
            done = {n: m for n, m in modules.items() if n in ends and ends[n] < len(values)}
            # a list is never called itself, only its blocks
            own = {p for m in done.values() for p in m.parameters()}
            rest = [p for p in model.parameters() if p not in own]
            out = [t for t in tensors_in(values[-1]) if t.requires_grad]
            grads = torch.autograd.grad(sum(t.sum() for t in out), rest, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    reached = [p for p, grad in zip(rest, grads, strict=True) if grad is not None]
    for parameter in (*own, *reached):
        parameter.requires_grad_(False)
    return done
