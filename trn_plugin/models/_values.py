"""Tensors in nested tuples, lists and dicts, such as inputs and outputs of modules."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cloned", "tensors_in", "versions"]


def tensors_in(value) -> list[Tensor]:
    """All tensors in a value, in order."""
    if torch.is_tensor(value):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in tensors_in(v)] if isinstance(value, (list, tuple)) else []


def versions(value) -> list[int]:
    """How often each tensor in a value was changed in place."""
    return [tensor._version for tensor in tensors_in(value)]


def cloned(value):
    """The value with its tensors cloned; tensors in dicts are not."""
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, (list, tuple)):
        return type(value)(cloned(v) for v in value)
    return value
