"""MMEngine's message hub in a checkpoint, as plain data."""

from __future__ import annotations

import copy

from mmengine.logging import HistoryBuffer

__all__ = ["message_hub_state", "restore_message_hub"]


def message_hub_state(hub) -> dict:
    """Logged values, and what hooks have noted that is to be there after a resume."""
    resumed = {k: v for k, v in hub._resumed_keys.items() if v}
    return {
        "log_scalars": {
            name: dict(zip(("history", "counts"), buffer.data, strict=True))
            for name, buffer in hub.log_scalars.items()
            if resumed.get(name, True)
        },
        "runtime_info": {
            k: copy.copy(v)
            for k, v in hub.runtime_info.items()
            if resumed.get(k) and _is_plain_info(v)
        },
    }


def restore_message_hub(hub, state: dict) -> None:
    """Logged values and what hooks have noted.

    Raises:
        TypeError, ValueError, AttributeError: no such state.
    """
    hub.log_scalars.clear()
    for name, saved in state.get("log_scalars", {}).items():
        if isinstance(saved, dict) and "history" in saved:  # the plain Runner's are stand-ins
            if not isinstance(name, str) or saved["history"].shape != saved["counts"].shape:
                raise ValueError(f"the logged values of {name!r} have no count each")
            hub.log_scalars[name] = HistoryBuffer(
                saved["history"].cpu().numpy(), saved["counts"].cpu().numpy()
            )
            hub._resumed_keys[name] = True
    for name, value in state.get("runtime_info", {}).items():
        if name == "keep_ckpt_ids" and not _are_steps(value):
            raise ValueError(f"keep_ckpt_ids are no numbers of epochs or iterations: {value!r}")
        if isinstance(name, str) and _is_plain_info(value):
            hub._runtime_info[name] = value
            hub._resumed_keys[name] = True


def _are_steps(value) -> bool:
    return isinstance(value, list) and all(type(step) is int and step > 0 for step in value)


def _is_plain_info(value) -> bool:
    if isinstance(value, list):  # such as the numbers of the checkpoints to keep
        return all(isinstance(entry, (bool, int, float, str)) for entry in value)
    return isinstance(value, (bool, int, float, str))
