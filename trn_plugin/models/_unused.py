"""Remove unused parameters from the parts of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["drop_unused", "empty", "tensors_in"]


def tensors_in(value) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    if torch.is_tensor(value):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in tensors_in(v)] if isinstance(value, (list, tuple)) else []


def drop_unused(trunk: nn.Module, tails: Sequence[nn.Module], probe: Tensor) -> None:
    """Remove the parameters of each part that its outputs do not depend on."""
    parts = (trunk, *tails)
    frozen = [p for part in parts for p in part.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    for part in parts:
        part.eval()
    with torch.enable_grad():
        results = _strip(trunk, (probe,))
        for tail, values in zip(tails, results, strict=False):
            _strip(tail, values)
    for parameter in frozen:
        parameter.requires_grad_(False)


def _strip(part: nn.Module, values: tuple) -> tuple:
    called: set[nn.Module] = {part}
    handles = [
        module.register_forward_pre_hook(lambda module, _: called.add(module))
        for module in part.modules()
    ]
    try:
        results = part(*values)
    finally:
        for handle in handles:
            handle.remove()
    parameters = list(part.parameters())
    out = sum(t.sum() for t in tensors_in(results) if t.requires_grad)
    grads = torch.autograd.grad(out, parameters, allow_unused=True, retain_graph=True)
    unused = {id(p) for p, grad in zip(parameters, grads, strict=True) if grad is None}
    for module in part.modules():
        keys = [k for k, p in module._parameters.items() if p is not None and id(p) in unused]
        if keys and module not in called:
            empty(module, recurse=False)
            continue
        for key in keys:
            # the forward pass may still read it for an unused result
            value = module._parameters.pop(key).detach()
            module.register_buffer(key, value, persistent=False)
    return results


def empty(module: nn.Module, recurse: bool = True) -> None:
    """Set the parameters and buffers of a module to None, by default also of its submodules."""
    for part in module.modules() if recurse else (module,):
        for values in (part._parameters, part._buffers):
            for key in values:
                values[key] = None
