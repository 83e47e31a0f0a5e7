"""Parameter schedules: convert epochs to iterations, restore from a checkpoint, replay."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from trn_plugin.errors import ConfigError, shown

__all__ = ["as_iterations", "replay", "restore_schedules", "same_kind", "schedules_in"]


def as_iterations(scheduler, epoch_length: int, max_iters: int):
    """Convert configs of schedules to iterations; an epoch is one pass over the data."""
    if isinstance(scheduler, (list, tuple)):
        return [as_iterations(each, epoch_length, max_iters) for each in scheduler]
    if not isinstance(scheduler, dict) or not scheduler.get("by_epoch", True):
        return scheduler
    if "type" not in scheduler:  # schedules by optimizer
        return {k: as_iterations(v, epoch_length, max_iters) for k, v in scheduler.items()}
    name = getattr(scheduler["type"], "__name__", str(scheduler["type"])).rpartition(".")[2]
    if name.startswith("ReduceOnPlateau"):
        raise ConfigError(
            f"param_scheduler: {name} counts epochs with a validation, which IterBasedTrainLoop "
            "does not have; use EpochBasedTrainLoop"
        )
    # MMEngine multiplies by the epoch length and rounds down; the half keeps max_iters exact
    converted = {"end": (max_iters + 0.5) / epoch_length, **scheduler}
    if name.startswith("Exponential"):
        converted["gamma"] = scheduler.get("gamma", 0.1) ** (1 / epoch_length)
    return {**converted, "by_epoch": True, "convert_to_iter_based": True}


def schedules_in(schedulers) -> Iterator:
    """Iterate over schedules or their states: a list, or a dict of lists by optimizer."""
    for group in schedulers.values() if isinstance(schedulers, dict) else [schedulers or []]:
        yield from group


def restore_schedules(schedulers, saved) -> list[str]:
    """Load saved states into schedules; returns the settings that differ from the config's."""
    if isinstance(schedulers, dict) and saved.keys() != schedulers.keys():
        raise ValueError(f"schedules of the optimizers {shown(list(saved))}")
    differing = []
    for schedule, state in zip(schedules_in(schedulers), schedules_in(saved), strict=True):
        own, kind = schedule.state_dict(), type(schedule).__name__
        if state.keys() != own.keys():
            raise ValueError(f"a {kind} has the values {shown(list(state))}")
        for name, value in own.items():
            if not same_kind(value, state[name]):
                raise ValueError(f"{name} of a {kind} is {shown(state[name])}, expected {value!r}")
            setting = not name.startswith("_") and name not in ("last_step", "verbose")
            if setting and isinstance(value, (int, float)) and state[name] != value:
                differing.append(f"{kind}.{name} ({shown(state[name])}, not {value!r})")
        schedule.load_state_dict(state)
    return differing


def replay(schedulers, iterations: int, epoch_length: int) -> None:
    """Advance new schedules by a number of iterations."""
    schedules = list(schedules_in(schedulers))
    for schedule in schedules:
        if getattr(schedule, "need_val_args", False):
            raise ConfigError(
                f"resume_schedule: {type(schedule).__name__} depends on the validations and "
                "cannot be replayed"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that no optimizer has stepped
        for step in range(1, iterations + 1):
            for schedule in schedules:
                if not schedule.by_epoch or step % epoch_length == 0:
                    schedule.step()


def same_kind(own, saved) -> bool:
    """Whether a saved value has the type and length of our own; texts must be equal."""
    if isinstance(own, (list, tuple)):
        same = isinstance(saved, (list, tuple)) and len(saved) == len(own)
        return same and all(map(same_kind, own, saved))
    if isinstance(own, (int, float)):
        return isinstance(saved, (int, float)) and (abs(saved) < 2**53 or saved == own)
    return not isinstance(own, str) or saved == own
