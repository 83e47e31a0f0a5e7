"""What a run has besides its model: checks of what comes from a checkpoint, and hooks' counts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from mmengine.hooks import EarlyStoppingHook, Hook
from torch import nn

__all__ = [
    "check_optimizer",
    "hooks_state",
    "in_own_order",
    "optimized_names",
    "restore_hooks",
    "restore_schedule",
]

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")
COUNTED = {EarlyStoppingHook: ("wait_count", "best_score")}
"""Attributes of MMEngine's hooks that decide how a run goes on; others say so themselves."""


def optimized_names(wrapper, model: nn.Module) -> dict[str, list[list[str]]]:
    """Names of the parameters of an optimizer's groups, by the name of the optimizer, in order.

    An optimizer's state knows its parameters by their number only, and their order in a model may
    change: with the version of timm, or when gradient checkpointing is switched on.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        key: [[names.get(id(p), "") for p in group["params"]] for group in each.param_groups]
        for key, each in getattr(wrapper, "optim_wrappers", {"": wrapper}).items()
    }


def in_own_order(state: dict, saved: dict, own: dict) -> dict:
    """The state of an optimizer wrapper with its parameters numbered in another order.

    Args:
        state (dict): of the wrapper.
        saved, own (dict): :func:`optimized_names` when it was saved, and now.

    Raises:
        ValueError: the optimizers, or the parameters of a group, are not the same.
    """
    if saved == own:
        return state
    if saved.keys() != own.keys():
        raise ValueError(f"expected the state of optimizers {list(own)}, found {list(saved)}")
    if "" not in own:
        return {k: in_own_order(state[k], {"": saved[k]}, {"": own[k]}) for k in own}
    if [set(names) for names in saved[""]] != [set(names) for names in own[""]]:
        raise ValueError("it trained other parameters, or in other groups")
    numbers = {n: number for number, n in enumerate(n for names in saved[""] for n in names)}
    order = [numbers[n] for names in own[""] for n in names]
    by_number = state["state"]
    moved = {new: by_number[old] for new, old in enumerate(order) if old in by_number}
    return {**state, "state": moved}


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


def restore_schedule(schedule, saved: dict) -> None:
    """Set a parameter scheduler to a state that is of one like it.

    Raises:
        ValueError: naming what the state lacks, or what is of another kind than the config's.
    """
    own = schedule.state_dict()
    for name, value in own.items():
        if name not in saved:
            raise ValueError(f"a schedule without {name} is no {type(schedule).__name__}")
        if not _alike(value, saved[name]):
            raise ValueError(f"{name} of a schedule is {saved[name]!r}, expected {value!r}")
    methods = [name for name in saved if hasattr(type(schedule), name)]
    if methods:
        raise ValueError(f"a schedule has no value {methods[0]}")
    schedule.load_state_dict(saved)


def _alike(own, saved) -> bool:
    if isinstance(own, (list, tuple)):
        same = isinstance(saved, (list, tuple)) and len(saved) == len(own)
        return same and all(_alike(*pair) for pair in zip(own, saved, strict=True))
    if isinstance(own, (int, float)):
        return isinstance(saved, (int, float)) and (abs(saved) < 2**53 or saved == own)
    if isinstance(own, str):
        return isinstance(saved, str) and saved == own
    return not torch.is_tensor(own) or (torch.is_tensor(saved) and saved.shape == own.shape)


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
