"""A checkpoint's weights and a model: what fits, what is missing, what cannot be used.

A model may say more of its own state dict, all of it optional:

- ``is_optional_state(key)``: whether a checkpoint may lack this key, or have one more;
- ``is_run_state(key)``: whether it belongs to a run and its data, as running moments do, so that
  other trainings do not start from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trn_plugin.engine.checkpoint import EXTRA_STATE, WRAPPERS
from trn_plugin.errors import CheckpointError, printable

__all__ = ["listed", "load_fitting_state", "load_model_state", "nonfinite_state"]


def load_model_state(model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Load ``state`` into ``model``, every name and shape fitting.

    Raises:
        CheckpointError: names the first keys that differ, or a value that is not finite.
    """
    own, state = model.state_dict(), _unwrapped(state)
    optional = getattr(model, "is_optional_state", lambda key: False)
    differing = [
        [key for key in one if key not in other and not optional(key) and not _is_extra(key)]
        for one, other in ((own, state), (state, own))
    ]
    listings = zip(
        ("lacks", "also holds", "has"), (*differing, _misshapen(own, state)), strict=True
    )
    problems = [f"{name} {listed(keys)}" for name, keys in listings if keys]
    if problems:
        raise CheckpointError(
            f"{path} is of another model than the config's: it {'; it '.join(problems)}"
        )
    bad = nonfinite_state(state, own)
    if bad is not None:
        raise CheckpointError(f"{path}: the values of {printable(bad)} are not finite")
    _load(model, state, path)


def load_fitting_state(
    model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike
) -> list[str]:
    """Load the weights whose names and shapes fit, for a training that starts from them.

    Returns:
        list[str]: lines for the log.

    Raises:
        CheckpointError: nothing fits, or a value is not finite.
    """
    of_run = getattr(model, "is_run_state", lambda key: False)
    own = {k: v for k, v in model.state_dict().items() if not of_run(k) and not _is_extra(k)}
    state = _unwrapped(state)
    fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not fits:
        raise CheckpointError(
            f"{path}: no weight of it fits the config's model; it holds {listed(list(state))}, "
            f"the model {listed(list(own))}"
        )
    bad = nonfinite_state(fits, own)
    if bad is not None:
        raise CheckpointError(f"{path}: the values of {printable(bad)} are not finite")
    _load(model, fits, path)
    lines = [f"{len(fits)} of {len(own)} weights taken from {path}"]
    missing = [key for key in own if key not in state]
    for problem, keys in (("lacks", missing), ("has", _misshapen(own, state))):
        if keys:
            lines.append(f"{path} {problem} {listed(keys)}: these start anew")
    return lines


def nonfinite_state(state: dict[str, Tensor], own: dict[str, Tensor] | None = None) -> str | None:
    """The first key whose values are not finite.

    Args:
        state: of a checkpoint or a model.
        own: of the model as it is built; its own infinities, as in masks of attention, may be in
            the state too.
    """
    floating = {
        key: value
        for key, value in state.items()
        if torch.is_tensor(value) and value.is_floating_point() and value.numel()
    }
    if not floating:
        return None
    finite = torch.stack([torch.isfinite(value).all().cpu() for value in floating.values()])
    for key, good in zip(floating, finite.tolist(), strict=True):
        if not good:
            mine = None if own is None else own.get(key)
            value = floating[key]
            if mine is None or not torch.equal(torch.isinf(mine), ~torch.isfinite(value)):
                return key
    return None


def listed(keys: Iterable[str]) -> str:
    """The first three of some names, and how many there are more."""
    keys = list(keys)
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(printable(key) for key in keys[:3]) + more


def _load(model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike) -> None:
    try:
        model.load_state_dict(state, strict=False)
    except Exception as error:  # what a module makes of an extra state is its own affair
        raise CheckpointError(
            f"{path}: the model cannot take its state: {type(error).__name__}: "
            f"{printable(' '.join(str(error).split()))}"
        ) from error


def _misshapen(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    return [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and not _is_extra(key) and state[key].shape != own[key].shape
    ]


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPERS * 2:
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _is_extra(key: str) -> bool:
    return key.rpartition(".")[2] == EXTRA_STATE
