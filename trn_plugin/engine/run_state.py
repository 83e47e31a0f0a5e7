"""Capture and restore what a run has besides its model, as plain data."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable

import mmengine
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import HistoryBuffer

import trn_plugin
from trn_plugin.engine.checkpoint import FORMAT, shown
from trn_plugin.engine.optimizers import (
    as_implemented,
    check_optimizer,
    in_own_order,
    keep_rates,
    optimized_names,
    option_differences,
)
from trn_plugin.engine.random_state import check_random_state, random_state
from trn_plugin.engine.resume_report import changed_settings, settings_of
from trn_plugin.engine.schedules import paired, replay, restore_schedule, schedule_differences
from trn_plugin.errors import CheckpointError, ConfigError, first_line, printable

__all__ = ["built", "capture", "describe", "process_state", "resume", "start_again"]

COUNTED = {EarlyStoppingHook: ("wait_count", "best_score")}
"""Attributes of MMEngine's hooks that decide how a run goes on; others say so themselves."""


def process_state(runner) -> dict:
    """What a process needs to go on as it would have, besides what all processes share."""
    waiting = hasattr(runner.optim_wrapper, "inner_count") and not (
        runner.optim_wrapper.should_update()
    )
    gradients = {
        name: parameter.grad.cpu()
        for name, parameter in runner.bare_model.named_parameters()
        if waiting and parameter.grad is not None
    }
    return {"random": random_state(), "gradients": gradients}


def capture(runner, save_optimizer: bool, save_param_scheduler: bool) -> dict:
    """Logs, hooks' counts, optimizers and schedules of a run."""
    state = {"message_hub": _hub_state(runner.message_hub), "hooks": _hooks_state(runner.hooks)}
    if save_optimizer:
        state["optimizer"] = runner.optim_wrapper.state_dict()
        state["optimized"] = optimized_names(runner.optim_wrapper, runner.bare_model)
    schedulers = runner.param_schedulers
    if save_param_scheduler and schedulers:
        state["param_schedulers"] = (
            {k: [s.state_dict() for s in v] for k, v in schedulers.items()}
            if isinstance(schedulers, dict)
            else [s.state_dict() for s in schedulers]
        )
    return state


def describe(runner, given: dict, by_epoch: bool) -> dict:
    """The metadata of a checkpoint of the end of an epoch, or of an iteration, or as given."""
    loop = runner.train_loop
    done = dict(epoch=loop.epoch + by_epoch, iter=loop.iter + (not by_epoch))
    meta = {**done, **given}
    meta.update(
        batch=0 if meta["epoch"] > loop.epoch else getattr(loop, "done", 0),
        batches=len(runner.train_dataloader),
        cfg=runner.cfg.pretty_text,
        settings=settings_of(runner.cfg),
        seed=runner.seed,
        experiment_name=runner.experiment_name,
        time=time.strftime("%Y%m%d_%H%M%S", time.localtime()),
        mmengine_version=mmengine.__version__,
        trn_plugin_version=trn_plugin.__version__,
        trn_plugin_format=FORMAT,
        dataset_meta=getattr(runner.train_dataloader.dataset, "metainfo", {}),
    )
    iteration, metrics = runner.validated
    if iteration == runner.iter:
        meta.update(metrics=metrics)
    return meta


def built(runner) -> dict:
    """Optimizers and schedules as they are built, for :func:`start_again`."""
    return copy.deepcopy(capture(runner, True, True))


def start_again(runner, state: dict) -> None:
    """Undo what a checkpoint that turned out to be of no use has changed."""
    runner.optim_wrapper.load_state_dict(copy.deepcopy(state["optimizer"]))
    for mine, saved in paired(runner.param_schedulers or [], state.get("param_schedulers", [])):
        mine.load_state_dict(copy.deepcopy(saved))


def resume(runner, checkpoint: dict, filename, optimizer: bool, param_scheduler: bool) -> None:
    """Set a runner to the state of a checkpoint whose weights it has.

    Raises:
        CheckpointError: a file without a run's counters, or of a run that does not fit.
    """
    meta, loop = checkpoint["meta"], runner.train_loop
    counts = [meta.get(name) for name in ("epoch", "iter")]
    if not all(type(count) is int and 0 <= count < 2**53 for count in counts):
        raise CheckpointError(f"{filename}: holds weights but no run to resume (no epoch, iter)")
    loop.epoch, loop.iter = counts
    if hasattr(loop, "find_batch"):
        loop.find_batch(meta, filename)
    loop.validation_pending = not meta.get("metrics")
    _follow_seed(runner, meta.get("seed"), filename)
    choice = runner.cfg.get("resume_schedule", "checkpoint")
    if choice not in ("checkpoint", "config"):
        raise ConfigError(f"resume_schedule: expected 'checkpoint' or 'config', found {choice!r}")
    try:
        ignored = _restore(runner, checkpoint, optimizer, param_scheduler, choice == "config")
    except ConfigError:
        raise
    except Exception as error:  # torch and MMEngine take what is in the file unchecked
        raise CheckpointError(
            f"{filename}: its run does not fit the config's optimizer, schedules or number of "
            f"processes: {type(error).__name__}: {printable(first_line(error))}"
        ) from error
    _report(runner, filename, ignored, changed_settings(runner.cfg, meta.get("settings")))


def _follow_seed(runner, seed, filename) -> None:
    if not isinstance(seed, int):
        return
    if not 0 <= seed < 2**32:
        raise CheckpointError(f"{filename}: expected a seed below 2^32, found {shown(seed)}")
    if seed != runner.randomness.get("seed"):
        runner.logger.warning(f"resuming with the seed of the checkpoint, {seed}")
        runner.randomness.update(seed=seed)
        runner.set_randomness(**runner.randomness)
        runner.train_dataloader.sampler.seed = seed


def _report(runner, filename, ignored: list[str], changed: list[str]) -> None:
    lines = []
    if ignored:
        lines.append(
            f"the optimizer and the schedule of the learning rate stay the checkpoint's: "
            f"{', '.join(ignored)} (resume_schedule='config' follows the config's rates and "
            "schedules)"
        )
    if changed:
        lines.append(f"of the config has changed, and counts from here on: {', '.join(changed)}")
    if lines:
        runner.logger.warning(f"resumed from {filename} with another config: {'; '.join(lines)}")


def _restore(
    runner, checkpoint: dict, optimizer: bool, param_scheduler: bool, stretch: bool
) -> list[str]:
    """Set optimizers, schedules, logs, hooks and this process to a checkpoint's.

    Args:
        runner (SafeRunner): its optimizers and schedules are as its config says.
        checkpoint (dict): what :func:`capture` gave, and of every process in 'ranks'.
        optimizer, param_scheduler (bool): what to restore.
        stretch (bool): keep the config's rates and schedules, as they are after so many steps.

    Returns:
        list[str]: what of the config the run does not follow.

    Raises:
        Exception: of any type, where the state is of another run or none.
    """
    ignored = []
    _restore_hub(runner.message_hub, checkpoint.get("message_hub", {}))
    if optimizer and "optimizer" in checkpoint:
        own = optimized_names(runner.optim_wrapper, runner.bare_model)
        saved = in_own_order(checkpoint["optimizer"], checkpoint.get("optimized", own), own)
        before = runner.optim_wrapper.state_dict()
        differing = option_differences(before, saved)
        runner.optim_wrapper.load_state_dict(as_implemented(saved, before))
        check_optimizer(runner.optim_wrapper)
        if stretch:
            keep_rates(runner.optim_wrapper, before)
            differing = [line for line in differing if not line.startswith("lr ")]
        ignored += [f"optimizer {line}" for line in differing]
    elif optimizer:
        runner.logger.warning(
            "the checkpoint holds no optimizer state: the run goes on with a new optimizer"
        )
    schedulers = runner.param_schedulers
    if stretch and schedulers:
        replay(schedulers, runner.iter, len(runner.train_dataloader))
    elif param_scheduler and "param_schedulers" in checkpoint and schedulers:
        pairs = list(paired(schedulers, checkpoint["param_schedulers"]))
        for mine, state in pairs:
            ignored += [f"schedule {line}" for line in schedule_differences(mine, state)]
            restore_schedule(mine, state)
    _restore_hooks(runner.hooks, checkpoint.get("hooks", {}))
    runner.random_state = _restore_process(runner, checkpoint.get("ranks") or [])
    return ignored


def _restore_process(runner, ranks: list) -> dict | None:
    if len(ranks) != get_world_size():
        if ranks:
            runner.logger.warning(
                f"the checkpoint is of a run with {len(ranks)} processes, this one has "
                f"{get_world_size()}: it goes on, but not exactly as that run would have"
            )
        return None
    mine = ranks[get_rank()]
    check_random_state(mine["random"])
    parameters = dict(runner.bare_model.named_parameters())
    for name, gradient in mine["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name]).clone()
    return mine["random"]


def _hub_state(hub) -> dict:
    """Logged values, and what hooks have noted that is to be there after a resume."""
    state = hub.state_dict()
    return {
        "log_scalars": {
            name: dict(zip(("history", "counts"), buffer.data, strict=True))
            for name, buffer in state["log_scalars"].items()
        },
        "runtime_info": {k: v for k, v in state["runtime_info"].items() if _is_plain_info(v)},
    }


def _restore_hub(hub, state: dict) -> None:
    """Logged values and what hooks have noted.

    Raises:
        TypeError, ValueError, AttributeError: no such state.
    """
    scalars = {}
    for name, saved in state.get("log_scalars", {}).items():
        if isinstance(saved, dict) and "history" in saved:  # the plain Runner's are stand-ins
            if not isinstance(name, str) or saved["history"].shape != saved["counts"].shape:
                raise ValueError(f"the logged values of {shown(name)} have no count each")
            values = (saved[part].cpu().numpy() for part in ("history", "counts"))
            scalars[name] = HistoryBuffer(*values)
    info = {}
    for name, value in state.get("runtime_info", {}).items():
        if name == "keep_ckpt_ids" and not _are_steps(value):
            raise ValueError(
                f"keep_ckpt_ids are no numbers of epochs or iterations: {shown(value)}"
            )
        if isinstance(name, str) and _is_plain_info(value):
            info[name] = value
    hub.log_scalars.clear()
    resumed = dict.fromkeys({**scalars, **info}, True)
    hub.load_state_dict({"log_scalars": scalars, "runtime_info": info, "resumed_keys": resumed})


def _are_steps(value) -> bool:
    return isinstance(value, list) and all(type(step) is int and step > 0 for step in value)


def _is_plain_info(value) -> bool:
    if isinstance(value, list):  # such as the numbers of the checkpoints to keep
        return all(isinstance(entry, (bool, int, float, str)) for entry in value)
    return isinstance(value, (bool, int, float, str))


def _hooks_state(hooks: Iterable[Hook]) -> dict[str, dict]:
    """What hooks have counted, by the name of their class."""
    return {
        kind.__name__: {name: getattr(hook, name) for name in names}
        for hook in hooks
        for kind, names in COUNTED.items()
        if isinstance(hook, kind)
    }


def _restore_hooks(hooks: Iterable[Hook], state: dict) -> None:
    for hook in hooks:
        for kind, names in COUNTED.items():
            saved = state.get(kind.__name__, {})
            for name in names if isinstance(hook, kind) and saved else ():
                if not isinstance(saved.get(name), (int, float)):
                    raise TypeError(f"{kind.__name__}.{name} is {shown(saved.get(name))}")
                setattr(hook, name, saved[name])
