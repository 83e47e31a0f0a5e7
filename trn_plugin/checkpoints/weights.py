"""Load a checkpoint's weights into a model.

A model may define two optional methods:

- ``is_optional_state(key)``: whether this key may be missing from the checkpoint or the model;
- ``is_run_state(key)``: whether the key belongs to a run and its data, such as running covariances;
  fine-tuning does not start from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trn_plugin.checkpoints.reading import EXTRA_STATE, unwrapped
from trn_plugin.errors import CheckpointError, printable

__all__ = [
    "check_options",
    "load_fitting_state",
    "load_model_state",
    "nonfinite",
    "nonfinite_state",
]


def load_model_state(model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Load ``state``; a CheckpointError names the keys and shapes that do not fit."""
    own, state = model.state_dict(), unwrapped(state)
    optional = getattr(model, "is_optional_state", lambda key: False)
    lacks, more = (
        [key for key in one if key not in other and not optional(key) and not _is_extra(key)]
        for one, other in ((own, state), (state, own))
    )
    found = {"lacks": lacks, "also holds": more, "has": _misshapen(own, state)}
    problems = [f"it {name} {_listed(keys)}" for name, keys in found.items() if keys]
    if problems:
        raise CheckpointError(
            f"{path} is of another model than the config's: {'; '.join(problems)}"
        )
    _load(model, state, own, path)


def load_fitting_state(
    model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike
) -> list[str]:
    """Load the weights that fit, for fine-tuning; return lines for the log."""
    of_run = getattr(model, "is_run_state", lambda key: False)
    own = {k: v for k, v in model.state_dict().items() if not of_run(k) and not _is_extra(k)}
    state = unwrapped(state)
    fits = {k: v for k, v in state.items() if k in own and _alike(own[k], v)}
    if not fits:
        raise CheckpointError(
            f"{path}: none of its weights fits the config's model; it holds "
            f"{_listed(list(state))}, the model {_listed(list(own))}"
        )
    _load(model, fits, own, path)
    found = {"lacks": [k for k in own if k not in state], "has": _misshapen(own, state)}
    lines = [f"{path} {name} {_listed(k)}: these start anew" for name, k in found.items() if k]
    return [f"{len(fits)} of {len(own)} weights taken from {path}", *lines]


def nonfinite_state(state: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    """The first key with non-finite values, except infinities that ``own`` has too (masks)."""
    for key in nonfinite(state.items()):
        masked = key in own and own[key].isinf().cpu()
        if masked is False or not torch.equal(masked, ~state[key].isfinite().cpu()):
            return key
    return None


def nonfinite(values: Iterable[tuple[str, object]]) -> list[str]:
    """Names of the non-finite tensors; synchronises once."""
    tensors = [(k, v) for k, v in values if torch.is_tensor(v) and v.is_floating_point()]
    if not tensors:
        return []
    good = torch.stack([torch.isfinite(value).all().cpu() for _, value in tensors]).tolist()
    return [name for (name, _), fine in zip(tensors, good, strict=True) if not fine]


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(printable(key) for key in keys[:3]) + more


def _load(model: nn.Module, state: dict, own: dict, path: str | os.PathLike) -> None:
    bad = nonfinite_state(state, own)
    if bad is not None:
        raise CheckpointError(f"{path}: the values of {printable(bad)} are not finite")
    try:
        model.load_state_dict(state, strict=False)
    except Exception as error:  # set_extra_state may raise anything
        raise CheckpointError(
            f"{path}: the model cannot load its state: {type(error).__name__}: "
            f"{printable(' '.join(str(error).split()))}"
        ) from error


def _misshapen(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    return [
        f"{key} {_form(state[key])} instead of {_form(own[key])}"
        for key in own
        if key in state and not _is_extra(key) and not _alike(own[key], state[key])
    ]


def _alike(own: Tensor, other: Tensor) -> bool:
    """Whether shapes agree, and both or neither are floating point: torch would cast a bool."""
    return own.shape == other.shape and own.is_floating_point() == other.is_floating_point()


def _form(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _is_extra(key: str) -> bool:
    return key.rpartition(".")[2] == EXTRA_STATE


def check_options(saved, known: set[str], kind: str) -> None:
    """Raise ValueError for options in a saved optimizer that an optimizer ``kind`` lacks."""
    unknown = sorted({str(key).removeprefix("initial_") for key in saved} - known)
    if unknown:
        found = printable(", ".join(unknown))
        raise ValueError(f"its optimizer has {found}, which {kind} does not have")
