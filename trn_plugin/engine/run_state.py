"""What a run has besides its model: checks of what comes from a checkpoint, and hooks' counts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from mmengine.hooks import EarlyStoppingHook, Hook

__all__ = ["check_optimizer", "hooks_state", "restore_hooks"]

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")
COUNTED = {EarlyStoppingHook: ("wait_count", "best_score")}
"""Attributes of MMEngine's hooks that decide how a run goes on; others say so themselves."""


def check_optimizer(wrapper) -> None:
    """Refuse an optimizer's state that its next step could not use.

    Raises:
        ValueError: naming what does not fit.
    """
    wrappers = getattr(wrapper, "optim_wrappers", {None: wrapper}).values()
    for optimizer in (each.optimizer for each in wrappers):
        for group in optimizer.param_groups:
            if not isinstance(group.get("lr"), (int, float, torch.Tensor)):
                raise ValueError(f"the learning rate is {group.get('lr')!r}")
        for parameter, state in optimizer.state.items():
            for name in MOMENTS:
                value = state.get(name)
                if torch.is_tensor(value) and value.shape != parameter.shape:
                    raise ValueError(
                        f"{name} is {tuple(value.shape)} for a weight of {tuple(parameter.shape)}"
                    )


def hooks_state(hooks: Iterable[Hook]) -> dict[str, dict]:
    """What hooks have counted, by the name of their class."""
    return {
        kind.__name__: {name: getattr(hook, name) for name in names}
        for hook in hooks
        for kind, names in COUNTED.items()
        if isinstance(hook, kind)
    }


def restore_hooks(hooks: Iterable[Hook], state: dict) -> None:
    """Set what :func:`hooks_state` gave.

    Raises:
        TypeError: no such state.
    """
    for hook in hooks:
        for kind, names in COUNTED.items():
            saved = state.get(kind.__name__, {})
            for name in names if isinstance(hook, kind) and saved else ():
                if not isinstance(saved.get(name), (int, float)):
                    raise TypeError(f"{kind.__name__}.{name} is {saved.get(name)!r}")
                setattr(hook, name, saved[name])
