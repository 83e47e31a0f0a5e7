"""Parameter schedules: by epochs in a run by iterations, from a checkpoint, stretched."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

from trn_plugin.engine.checkpoint import shown
from trn_plugin.errors import ConfigError

__all__ = ["as_iterations", "paired", "replay", "restore_schedule", "schedule_differences"]

COUNTERS = ("last_step", "verbose")
"""Of a schedule's state, what is not of its form."""


def as_iterations(scheduler, epoch_length: int, max_iters: int):
    """The config of schedules for a loop that counts iterations: an epoch is a pass of the data.

    Raises:
        ConfigError: a schedule by epochs that has no form in iterations.
    """
    if isinstance(scheduler, (list, tuple)):
        return [as_iterations(each, epoch_length, max_iters) for each in scheduler]
    if not isinstance(scheduler, dict) or not scheduler.get("by_epoch", True):
        return scheduler
    if "type" not in scheduler:  # by the name of an optimizer
        return {k: as_iterations(v, epoch_length, max_iters) for k, v in scheduler.items()}
    converted = copy.deepcopy(dict(scheduler))
    name = getattr(converted["type"], "__name__", str(converted["type"])).rpartition(".")[2]
    if name.startswith("ReduceOnPlateau"):
        raise ConfigError(
            f"param_scheduler: {name} counts validations of epochs, which IterBasedTrainLoop has "
            "not; use EpochBasedTrainLoop"
        )
    if name.startswith("Exponential"):
        converted["gamma"] = converted.get("gamma", 0.1) ** (1 / epoch_length)
    # MMEngine multiplies by the epoch's length and rounds down
    converted.setdefault("end", (max_iters + 0.5) / epoch_length)
    return {**converted, "by_epoch": True, "convert_to_iter_based": True}


def paired(mine, saved) -> Iterator[tuple]:
    """Schedulers and their saved states; both are lists, or dicts of lists by optimizer.

    Raises:
        ValueError, KeyError, TypeError: not as many, or not of the same optimizers.
    """
    if isinstance(mine, dict):
        for name, schedulers in mine.items():
            yield from zip(schedulers, saved[name], strict=True)
    else:
        yield from zip(mine, saved, strict=True)


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
            raise ValueError(f"{name} of a schedule is {shown(saved[name])}, expected {value!r}")
    methods = [name for name in saved if hasattr(type(schedule), name)]
    if methods:
        raise ValueError(f"a schedule has no value {methods[0]}")
    schedule.load_state_dict(saved)


def schedule_differences(schedule, saved: dict) -> list[str]:
    """In what the saved state is of another schedule than the config's."""
    own = schedule.state_dict()
    return [
        f"{type(schedule).__name__}.{name} ({shown(saved[name])}, not {value!r})"
        for name, value in own.items()
        if name in saved
        and not name.startswith("_")
        and name not in COUNTERS
        and isinstance(value, (bool, int, float, str))
        and isinstance(saved[name], (bool, int, float, str))
        and saved[name] != value
    ]


def replay(schedulers, iterations: int, epoch_length: int) -> None:
    """Bring new schedulers to where they are after so many iterations.

    Raises:
        ConfigError: a schedule that follows the validations, which cannot be replayed.
    """
    groups = list(schedulers.values()) if isinstance(schedulers, dict) else [schedulers]
    for schedule in (each for group in groups for each in group):
        if getattr(schedule, "need_val_args", False):
            raise ConfigError(
                f"resume_schedule: {type(schedule).__name__} follows the validations and cannot "
                "be replayed"
            )
    with warnings.catch_warnings(action="ignore"):  # that no optimizer has stepped
        for step in range(1, iterations + 1):
            for schedule in (each for group in groups for each in group):
                if not schedule.by_epoch or step % epoch_length == 0:
                    schedule.step()


def _alike(own, saved) -> bool:
    if isinstance(own, (list, tuple)):
        same = isinstance(saved, (list, tuple)) and len(saved) == len(own)
        return same and all(_alike(*pair) for pair in zip(own, saved, strict=True))
    if isinstance(own, (int, float)):
        return isinstance(saved, (int, float)) and (abs(saved) < 2**53 or saved == own)
    if isinstance(own, str):
        return isinstance(saved, str) and saved == own
    return True
