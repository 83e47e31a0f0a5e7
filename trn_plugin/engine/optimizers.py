"""The state of optimizers in a checkpoint, and whether this run's can use it."""

from __future__ import annotations

import inspect

import torch
from mmengine.registry import OPTIMIZERS
from torch import nn

from trn_plugin.engine.checkpoint import shown
from trn_plugin.errors import ConfigError

__all__ = [
    "accumulated",
    "as_implemented",
    "check_optimizer",
    "in_own_order",
    "keep_rates",
    "nonfinite_moment",
    "optimized_names",
    "option_differences",
    "own_optimizer",
    "wrappers_of",
]

IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")
"""Options of an optimizer that do not change what it computes."""
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")


def wrappers_of(wrapper) -> dict[str, object]:
    """The wrappers of single optimizers, by name; a lone one has the name ''."""
    return dict(getattr(wrapper, "optim_wrappers", {"": wrapper}))


def accumulated(wrapper) -> int:
    """Over how many steps gradients are accumulated."""
    counts = [getattr(each, "_accumulative_counts", 1) for each in wrappers_of(wrapper).values()]
    return max(counts)


def own_optimizer(wrapper, on_gpu: bool):
    """The config of an optimizer wrapper; on a GPU fused unless the config says otherwise.

    A fused optimizer can leave out a step without its host waiting to know.

    Raises:
        ConfigError: no optimizer of that name.
    """
    optimizer = wrapper.get("optimizer") if isinstance(wrapper, dict) else None
    name = optimizer.get("type") if isinstance(optimizer, dict) else None
    if not isinstance(name, str):
        return wrapper
    kind = OPTIMIZERS.get(name)
    if kind is None:
        raise ConfigError(f"optim_wrapper.optimizer.type: no optimizer is named {name!r}")
    known = inspect.signature(kind).parameters
    if not on_gpu or "fused" not in known or any(key in optimizer for key in IMPLEMENTATION):
        return wrapper
    return {**wrapper, "optimizer": {**optimizer, "fused": True}}


def optimized_names(wrapper, model: nn.Module) -> dict[str, list[list[str]]]:
    """Names of the parameters of an optimizer's groups, by the name of the optimizer, in order.

    An optimizer's state knows its parameters by their number only, and their order in a model may
    change: with the version of timm, or when gradient checkpointing is switched on.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        key: [[names.get(id(p), "") for p in group["params"]] for group in each.param_groups]
        for key, each in wrappers_of(wrapper).items()
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
        raise ValueError(f"expected the state of optimizers {list(own)}, found {shown(saved)}")
    if "" not in own:
        return {k: in_own_order(state[k], {"": saved[k]}, {"": own[k]}) for k in own}
    if [set(names) for names in saved[""]] != [set(names) for names in own[""]]:
        raise ValueError("it trained other parameters, or in other groups")
    numbers = {n: number for number, n in enumerate(n for names in saved[""] for n in names)}
    order = [numbers[n] for names in own[""] for n in names]
    by_number = state["state"]
    moved = {new: by_number[old] for new, old in enumerate(order) if old in by_number}
    return {**state, "state": moved}


def as_implemented(state: dict, own: dict) -> dict:
    """A saved state whose optimizers are implemented as this run's."""
    if "param_groups" not in own:  # by the name of the optimizer
        return {key: as_implemented(state[key], own[key]) for key in own}
    groups = [
        {**theirs, **{k: v for k, v in mine.items() if k in IMPLEMENTATION}}
        for theirs, mine in zip(state["param_groups"], own["param_groups"], strict=True)
    ]
    return {**state, "param_groups": groups}


def keep_rates(wrapper, own: dict) -> None:
    """Give the groups the scheduled values of ``own``, a state of the wrapper, back."""
    for name, each in wrappers_of(wrapper).items():
        state = own[name] if name else own
        for group, mine in zip(each.param_groups, state["param_groups"], strict=True):
            for initial in [key for key in mine if key.startswith("initial_")]:
                value = initial.removeprefix("initial_")
                group.update({initial: mine[initial], value: mine[value]})


def check_optimizer(wrapper) -> None:
    """Refuse an optimizer's state that its next step could not use.

    Raises:
        ValueError: naming what does not fit.
    """
    for optimizer in (each.optimizer for each in wrappers_of(wrapper).values()):
        for group in optimizer.param_groups:
            if not isinstance(group.get("lr"), (int, float, torch.Tensor)):
                raise ValueError(f"the learning rate is {shown(group.get('lr'))}")
        for parameter, state in optimizer.state.items():
            for name in MOMENTS:
                value = state.get(name)
                if torch.is_tensor(value) and value.shape != parameter.shape:
                    raise ValueError(
                        f"{name} is {tuple(value.shape)} for a weight of {tuple(parameter.shape)}"
                    )
    bad = nonfinite_moment(wrapper)
    if bad is not None:
        raise ValueError(f"{bad} of its optimizer is not finite")


def nonfinite_moment(wrapper) -> str | None:
    """The name of the first of the optimizers' moments that is not finite."""
    found = [
        (name, value)
        for each in wrappers_of(wrapper).values()
        for state in each.optimizer.state.values()
        for name, value in state.items()
        if torch.is_tensor(value) and value.is_floating_point() and value.numel()
    ]
    if not found:
        return None
    finite = torch.stack([torch.isfinite(value).all().cpu() for _, value in found]).tolist()
    return next((name for (name, _), good in zip(found, finite, strict=True) if not good), None)


def option_differences(own: dict, saved: dict) -> list[str]:
    """Where a saved optimizer's options are others than the config's.

    Args:
        own, saved (dict): states of an optimizer wrapper; a schedule changes the rate itself, so
            that its initial value is compared.
    """
    if "param_groups" not in own:  # by the name of the optimizer
        return [f"{k}.{line}" for k in own for line in option_differences(own[k], saved[k])]
    lines = {}
    for mine, theirs in zip(own["param_groups"], saved["param_groups"], strict=False):
        scheduled = {name.removeprefix("initial_") for name in mine if name.startswith("initial_")}
        for name, value in mine.items():
            short = name.removeprefix("initial_")
            unlike = name in theirs and theirs[name] != value
            if unlike and name not in (*scheduled, *IMPLEMENTATION, "params"):
                lines.setdefault(short, f"{short} ({shown(theirs[name])}, not {value!r})")
    return list(lines.values())
