"""Build the config's optimizers, and restore their state from a checkpoint."""

from __future__ import annotations

import inspect
import logging

import torch
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS
from torch import nn

from trn_plugin.checkpoints.weights import check_options, nonfinite
from trn_plugin.engine.schedules import same_kind
from trn_plugin.errors import ConfigError, shown

__all__ = ["nonfinite_moment", "optimized_names", "own_optimizer", "restore_optimizers"]

IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")
"""Optimizer options that do not change the result."""
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")


def wrappers_of(wrapper) -> dict[str, object]:
    """The optimizers' wrappers by name; a single one has the name ''."""
    return dict(getattr(wrapper, "optim_wrappers", {"": wrapper}))


def accumulated(wrapper) -> int:
    """The number of micro-batches in an optimizer step."""
    return max(getattr(each, "_accumulative_counts", 1) for each in wrappers_of(wrapper).values())


def own_optimizer(wrapper, model: nn.Module):
    """The config of an optimizer wrapper; fused on a GPU unless the config says otherwise.

    A fused optimizer can skip a step without host synchronisation. Warns of ``custom_keys`` that
    match no parameter.
    """
    if not isinstance(wrapper, dict):  # built already
        return wrapper
    keys = (wrapper.get("paramwise_cfg") or {}).get("custom_keys") or ()
    names = [name for name, _ in model.named_parameters()]
    unused = [key for key in keys if not any(str(key) in name for name in names)]
    if unused:
        where = "optim_wrapper.paramwise_cfg.custom_keys"
        text = f"{where}: no parameter's name contains {' or '.join(map(str, unused))}"
        print_log(text, "current", logging.WARNING)
    optimizer = wrapper.get("optimizer")
    name = optimizer.get("type") if isinstance(optimizer, dict) else None
    if not isinstance(name, str):
        return wrapper
    kind = OPTIMIZERS.get(name)
    if kind is None:
        raise ConfigError(f"optim_wrapper.optimizer.type: no optimizer is named {name!r}")
    known = inspect.signature(kind).parameters
    on_gpu = next(model.parameters()).is_cuda
    if not on_gpu or "fused" not in known or any(key in optimizer for key in IMPLEMENTATION):
        return wrapper
    return {**wrapper, "optimizer": {**optimizer, "fused": True}}


def optimized_names(wrapper, model: nn.Module) -> dict[str, list[list[str]]]:
    """Parameter names in each optimizer's groups; timm's versions may order them differently."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        key: [[names.get(id(p), "") for p in group["params"]] for group in each.param_groups]
        for key, each in wrappers_of(wrapper).items()
    }


def restore_optimizers(wrapper, model: nn.Module, saved: dict, names, keep_rates: bool) -> list:
    """Load the saved state of the optimizers; return the options that differ from this run's.

    ``names`` are the ``optimized_names`` of the saved run; ``keep_rates`` keeps this run's
    learning rates and other scheduled options. A state that does not fit raises any error.
    """
    own = optimized_names(wrapper, model)
    if names.keys() != own.keys():
        raise ValueError(f"expected the state of optimizers {list(own)}, found {shown(names)}")
    differing = []
    for name, each in wrappers_of(wrapper).items():
        before, state = each.state_dict(), saved[name] if name else saved
        if [set(group) for group in names[name]] != [set(group) for group in own[name]]:
            raise ValueError("the saved optimizer has other parameters or other groups")
        numbers = {n: number for number, n in enumerate(n for g in names[name] for n in g)}
        order = enumerate(numbers[n] for group in own[name] for n in group)
        moved = {new: state["state"][old] for new, old in order if old in state["state"]}
        groups = []
        for theirs, mine in zip(state["param_groups"], before["param_groups"], strict=True):
            initial = {key for key in mine if key.startswith("initial_")}
            rates = {key.removeprefix("initial_") for key in initial}  # schedules change them
            kept = {"params", *IMPLEMENTATION, *(initial | rates if keep_rates else ())}
            check_options(theirs, mine.keys() | kept, type(each.optimizer).__name__)
            for key in [key for key in mine if key in theirs and key not in kept]:
                value, saved_value = mine[key], theirs[key]
                if not torch.is_tensor(saved_value) and not same_kind(value, saved_value):
                    raise ValueError(f"{key} is {shown(saved_value)}, expected {value!r}")
                if key not in rates and saved_value != value:
                    option = f"{name}.{key}".removeprefix(".").replace("initial_", "")
                    differing.append(f"{option} ({shown(saved_value)}, not {value!r})")
            groups.append({**theirs, **{key: mine[key] for key in kept & mine.keys()}})
        each.load_state_dict({**state, "state": moved, "param_groups": groups})
        for group in each.param_groups:
            moments = [each.optimizer.state.get(p, {}) for p in group["params"]]
            pairs = list(zip(group["params"], moments, strict=True))
            kinds = {(p.ndim, frozenset(found) & {*MOMENTS}) for p, found in pairs if found}
            if len(kinds) > len({ndim for ndim, _ in kinds}):
                raise ValueError("some parameters of a group lack moments that others have")
            for parameter, found in pairs:
                for key, value in found.items():
                    _check_moment(key, value, parameter)
    bad = nonfinite_moment(wrapper)
    if bad is not None:
        raise ValueError(f"the optimizer's {bad} is not finite")
    return list(dict.fromkeys(differing))


def _check_moment(key: str, value, parameter) -> None:
    if key in MOMENTS or key == "step":
        fits = isinstance(value, (int, float)) and key == "step"
        if torch.is_tensor(value):
            fits = value.numel() == 1 if key == "step" else value.shape == parameter.shape
        if not fits and value is not None:
            raise ValueError(f"{key} of a parameter {tuple(parameter.shape)} is {shown(value)}")


def nonfinite_moment(wrapper) -> str | None:
    """The name of the first non-finite optimizer moment, if any."""
    states = [s for each in wrappers_of(wrapper).values() for s in each.optimizer.state.values()]
    return next(iter(nonfinite([item for state in states for item in state.items()])), None)
