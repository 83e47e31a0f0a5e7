"""Capture and restore the state of a run as plain data, except its model."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EarlyStoppingHook
from mmengine.logging import HistoryBuffer

import trn_plugin
from trn_plugin.checkpoints import FORMAT
from trn_plugin.checkpoints.newest import last_checkpoint_text
from trn_plugin.checkpoints.weights import nonfinite_state
from trn_plugin.engine.optimizers import nonfinite_moment, optimized_names, restore_optimizers
from trn_plugin.engine.schedules import replay, restore_schedules
from trn_plugin.errors import TrainingError, shown

__all__ = ["capture", "check_loadable", "describe", "process_state", "restore", "settings_of"]

COUNTED = ("wait_count", "best_score")
"""State of ``EarlyStoppingHook``."""
COMPARED = (
    *("model", "train_dataloader", "val_dataloader", "val_evaluator", "train_cfg", "val_cfg"),
    *("default_hooks", "custom_hooks", "input_size", "non_finite", "auto_scale_lr"),
)
"""Config keys compared when resuming; optimizers and schedules are compared after building."""
WRAPPER = ("type", "clip_grad", "accumulative_counts", "aggregator", "relation_losses", "shared")


def process_state(runner) -> dict:
    """State of this process alone: random generators, and accumulated gradients."""
    wrapper = runner.optim_wrapper
    waiting = hasattr(wrapper, "inner_count") and not wrapper.should_update()
    gradients = {
        name: parameter.grad.cpu()
        for name, parameter in runner.bare_model.named_parameters()
        if waiting and parameter.grad is not None
    }
    return {"random": random_state(), "gradients": gradients}


def capture(runner, save_optimizer: bool, save_param_scheduler: bool) -> dict:
    """State that all processes share: logs, early stopping, optimizers and schedules."""
    hub = runner.message_hub.state_dict()
    scalars = {
        name: dict(zip(("history", "counts"), buffer.data, strict=True))
        for name, buffer in hub["log_scalars"].items()
    }
    info = {name: value for name, value in hub["runtime_info"].items() if _is_plain(value)}
    counted = [{name: getattr(hook, name) for name in COUNTED} for hook in _stopping(runner)]
    state = {"message_hub": dict(log_scalars=scalars, runtime_info=info), "hooks": counted}
    if save_optimizer:
        state["optimizer"] = runner.optim_wrapper.state_dict()
        state["optimized"] = optimized_names(runner.optim_wrapper, runner.bare_model)
    schedulers = runner.param_schedulers
    if save_param_scheduler and schedulers:
        named = schedulers if isinstance(schedulers, dict) else {"": schedulers}
        states = {name: [each.state_dict() for each in group] for name, group in named.items()}
        state["param_schedulers"] = states if isinstance(schedulers, dict) else states[""]
    return state


def check_loadable(runner, optimizer: bool) -> None:
    """Raise TrainingError if weights, statistics or optimizer moments are non-finite."""
    model, steps = runner.bare_model, runner.finite_steps
    bad = nonfinite_state(model.state_dict(), steps.infinite if steps else {})
    kind = "weights" if bad in dict(model.named_parameters()) else "statistics"
    what = f"the {kind} of {bad} are"
    if bad is None and optimizer:
        bad = nonfinite_moment(runner.optim_wrapper)
        what = f"the optimizer's {bad} is"
    if bad is not None:
        raise TrainingError(
            f"iteration {runner.iter}: {what} not finite and not saved; "
            f"{last_checkpoint_text(runner.work_dir)}"
        )


def describe(runner, given: dict, by_epoch: bool) -> dict:
    """The metadata of a checkpoint; ``given`` values, such as epoch and iter, take precedence."""
    loop = runner.train_loop
    done = dict(epoch=loop.epoch + by_epoch, iter=loop.iter + (not by_epoch))
    meta = {**done, **given}
    meta.update(
        batch=0 if meta["epoch"] > loop.epoch else getattr(loop, "done", 0),
        batches=len(runner.train_dataloader),
        cfg=runner.config_text,
        settings=settings_of(runner.cfg),
        seed=runner.seed,
        experiment_name=runner.experiment_name,
        trn_plugin_version=trn_plugin.__version__,
        trn_plugin_format=FORMAT,
        dataset_meta=getattr(runner.train_dataloader.dataset, "metainfo", {}),
    )
    iteration, metrics = runner.validated
    return {**meta, "metrics": metrics} if iteration == meta["iter"] else meta


def settings_of(cfg) -> dict:
    """The config values that are compared when resuming, by key path."""

    def flat(path: str, value) -> dict:
        if isinstance(value, (dict, list, tuple)) and value:
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return {k: v for key, inner in items for k, v in flat(f"{path}.{key}", inner).items()}
        simple = value is None or isinstance(value, (bool, int, float, str))
        return {path: value if simple else getattr(value, "__qualname__", type(value).__name__)}

    compared = {key: cfg[key] for key in COMPARED if key in cfg}
    wrapper = cfg.get("optim_wrapper")
    if isinstance(wrapper, dict):
        compared |= {f"optim_wrapper.{key}": wrapper[key] for key in WRAPPER if key in wrapper}
    return {k: v for key, value in compared.items() for k, v in flat(key, value).items()}


def restore(
    runner, checkpoint: dict, optimizer: bool, param_scheduler: bool, stretch: bool
) -> list[str]:
    """Restore the state of a checkpoint; return the config's settings that it overrides.

    ``stretch`` keeps the config's rates and schedules, advanced to the current iteration. A state
    that does not fit raises an error of any type.
    """
    ignored = []
    _restore_hub(runner.message_hub, checkpoint.get("message_hub", {}))
    if optimizer and "optimizer" in checkpoint:
        wrapper, model = runner.optim_wrapper, runner.bare_model
        names = checkpoint.get("optimized", optimized_names(wrapper, model))
        found = restore_optimizers(wrapper, model, checkpoint["optimizer"], names, stretch)
        ignored += [f"optimizer {line}" for line in found]
    elif optimizer:
        runner.logger.warning(
            "the checkpoint has no optimizer state: the run continues with a new optimizer"
        )
    schedulers = runner.param_schedulers
    if stretch and schedulers:
        replay(schedulers, runner.iter, len(runner.train_dataloader))
    elif param_scheduler and "param_schedulers" in checkpoint and schedulers:
        found = restore_schedules(schedulers, checkpoint["param_schedulers"])
        ignored += [f"schedule {line}" for line in found]
    for hook, saved in zip(_stopping(runner), checkpoint.get("hooks") or (), strict=False):
        for name in COUNTED:
            if not isinstance(saved[name], (int, float)):
                raise TypeError(f"EarlyStoppingHook.{name} is {shown(saved[name])}")
            setattr(hook, name, saved[name])
    _restore_process(runner, checkpoint.get("ranks") or [])
    return ignored


def _restore_process(runner, ranks: list) -> None:
    if len(ranks) != get_world_size():
        if ranks:
            runner.logger.warning(
                f"the checkpoint is of a run with {len(ranks)} processes, this run has "
                f"{get_world_size()}: it continues, but not bit for bit"
            )
        return
    mine, current = ranks[get_rank()], random_state()
    try:
        set_random_state(mine["random"])  # raises an error for an invalid state
    finally:
        set_random_state(current)
    parameters = dict(runner.bare_model.named_parameters())
    for name, gradient in mine["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name]).clone()
    runner.random_state = mine["random"]


def random_state() -> dict:
    """State of the random generators of Python, numpy and torch (CPU and current GPU)."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    state = {
        "python": (version, torch.tensor(words), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: dict) -> None:
    """Restore a state from :func:`random_state`."""
    version, words, gauss = state["python"]
    kind, keys, *rest = state["numpy"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _restore_hub(hub, state: dict) -> None:
    """Restore logged values and runtime info."""
    scalars = {}
    for name, saved in state.get("log_scalars", {}).items():
        if isinstance(saved, dict) and "history" in saved:  # absent if MMEngine's Runner wrote it
            if not isinstance(name, str) or saved["history"].shape != saved["counts"].shape:
                raise ValueError(f"the logged values of {shown(name)} do not match their counts")
            scalars[name] = HistoryBuffer(*(saved[k].cpu().numpy() for k in ("history", "counts")))
    info = {k: v for k, v in state.get("runtime_info", {}).items() if _is_plain(v)}
    steps = info.get("keep_ckpt_ids", [])
    if steps != state.get("runtime_info", {}).get("keep_ckpt_ids", []) or not (
        isinstance(steps, list) and all(type(step) is int and step > 0 for step in steps)
    ):
        raise ValueError(f"keep_ckpt_ids: expected positive integers, found {shown(steps)}")
    hub.log_scalars.clear()
    resumed = dict.fromkeys({**scalars, **info}, True)
    hub.load_state_dict({"log_scalars": scalars, "runtime_info": info, "resumed_keys": resumed})


def _is_plain(value) -> bool:
    values = value if isinstance(value, list) else [value]  # a list: keep_ckpt_ids
    return all(isinstance(each, (bool, int, float, str)) for each in values)


def _stopping(runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
