"""How the config of a resumed run differs from the one that its checkpoint was written with."""

from __future__ import annotations

from collections.abc import Iterator

from trn_plugin.engine.checkpoint import shown
from trn_plugin.engine.writing import plain

__all__ = ["changed_settings", "settings_of"]

COMPARED = (
    *("model", "train_dataloader", "val_dataloader", "val_evaluator", "train_cfg", "val_cfg"),
    *("default_hooks", "custom_hooks", "input_size", "non_finite", "auto_scale_lr"),
)
"""Keys of a config; optimizers and schedules are compared as they are built."""
LISTS, SCALARS = (list, tuple), (str, int, float, bool, type(None))
MOST = 8


def settings_of(cfg) -> dict:
    """The part of a config that a resumed run is compared with, as plain data."""
    return {key: plain(cfg[key]) for key in COMPARED if key in cfg}


def changed_settings(cfg, saved) -> list[str]:
    """Key paths whose values are others than in the checkpoint, at most a few."""
    if not isinstance(saved, dict):
        return []
    lines = [
        f"{path} (was {shown(old)}, is {shown(new)})"
        for path, old, new in _differences("", saved, settings_of(cfg))
    ]
    more = [f"and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return lines[:MOST] + more


def _differences(path: str, old, new) -> Iterator[tuple[str, object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*new, *(key for key in old if isinstance(key, str))])
        for key in keys:
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(inner, old.get(key), new.get(key))
    elif isinstance(new, LISTS) and isinstance(old, LISTS) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{path}.{number}", *pair)
    elif not (isinstance(old, SCALARS) and old == new):
        yield path, old, new
