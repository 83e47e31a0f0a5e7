"""Mistakes in a config, told in one line with the key path."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from mmengine.runner import Runner

from trn_plugin.errors import ConfigError, TrnPluginError, first_line, printable

__all__ = ["ToldRunner", "check_sections", "config_errors"]

LIST, PLAIN = (list, tuple), (bool, int, float, str, bytes, list, tuple, dict)
DICTS = (
    "train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg default_hooks "
    "auto_scale_lr model optim_wrapper env_cfg randomness visualizer log_processor "
    "model_wrapper_cfg data_preprocessor strategy"
)
SECTIONS = (
    (dict, "a dict", DICTS),
    ((dict, *LIST), "a dict or a list", "param_scheduler val_evaluator test_evaluator"),
    (str, "text", "work_dir load_from default_scope experiment_name runner_type launcher"),
    ((str, int), "text or a number", "log_level"),
    (LIST, "a list", "custom_hooks"),
    (bool, "True or False", "resume save_on_sigterm"),
    ((bool, dict), "True, False or a dict", "compile"),
)
CHOICES = dict(resume_schedule=("checkpoint", "config"), non_finite=("stop", "skip"))
NUMBERS = "T_max begin end eta_min eta_min_ratio gamma power start_factor end_factor"  # schedules'
SHARDING = ("FSDP", "FullySharded", "DeepSpeed", "ColossalAI")  # in the names of MMEngine's classes


@contextmanager
def config_errors(where: str) -> Iterator[None]:
    """Turn what building from a config raises into ConfigError, with its key path in front."""
    try:
        yield
    except (TrnPluginError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of MMEngine, torch, or a user's own class
        text = first_line(error)
        if isinstance(error, KeyError) and error.args:
            text = str(error.args[0]).split(". Please check")[0]
        raise ConfigError(f"{where}: {text}") from error


def check_sections(config) -> None:
    """ConfigError, with its key, for a section of another type than its readers expect."""
    for kinds, name, keys in SECTIONS:
        for key in keys.split():
            _check(key, config.get(key), kinds, name)
    for key, choices in CHOICES.items():
        if config.get(key, choices[0]) not in choices:
            known = " or ".join(map(repr, choices))
            raise ConfigError(f"{key}: expected {known}, found {printable(repr(config[key]))}")
    for part in ("train", "val", "test"):
        loader = config.get(f"{part}_dataloader") or {}
        if isinstance(loader, dict):
            _check(f"{part}_dataloader.dataset", loader.get("dataset"), dict, "a dict")
    schedules = config.get("param_scheduler")
    for number, part in enumerate(schedules if isinstance(schedules, LIST) else [schedules]):
        where = f"param_scheduler.{number}" if isinstance(schedules, LIST) else "param_scheduler"
        for key in NUMBERS.split() if isinstance(part, dict) else ():
            _check(f"{where}.{key}", part.get(key), (int, float), "a number")
    for key in ("strategy", "model_wrapper_cfg"):
        kind = str((config.get(key) or {}).get("type"))
        if any(word in kind for word in SHARDING):
            raise ConfigError(f"{key}.type: expected no sharding, found {printable(kind)}")
    for number, hook in enumerate(config.get("custom_hooks") or ()):
        _check(f"custom_hooks.{number}", hook, dict, "a dict")


def _check(key: str, value, kinds, name: str) -> None:
    if isinstance(value, PLAIN) and not isinstance(value, kinds):
        raise ConfigError(f"{key}: expected {name}, found {printable(repr(value))}")


def _told(name: str, where: str):
    """A method of MMEngine's ``Runner`` whose errors are those of a part of the config."""
    method = getattr(Runner, name)

    @functools.wraps(method)
    def told(self, *args, **kwargs):
        with config_errors(where):
            return method(self, *args, **kwargs)

    return told


class ToldRunner(Runner):
    """MMEngine's Runner; what it builds from a config fails with ConfigError and the key path."""

    setup_env = _told("setup_env", "env_cfg")
    set_randomness = _told("set_randomness", "randomness")
    build_logger = _told("build_logger", "log_level")
    build_log_processor = _told("build_log_processor", "log_processor")
    build_visualizer = _told("build_visualizer", "visualizer")
    build_model = _told("build_model", "model")
    wrap_model = _told("wrap_model", "model_wrapper_cfg")
    build_optim_wrapper = _told("build_optim_wrapper", "optim_wrapper")
    build_param_scheduler = _told("build_param_scheduler", "param_scheduler")
    build_evaluator = _told("build_evaluator", "evaluator")
    build_train_loop = _told("build_train_loop", "train_cfg")
    build_val_loop = _told("build_val_loop", "val_cfg")
    build_test_loop = _told("build_test_loop", "test_cfg")
    scale_lr = _told("scale_lr", "auto_scale_lr")


def replaced(part, own: Mapping):
    """A part of a config with our class for MMEngine's of that ``type``, where there is one."""
    name = part.get("type") if isinstance(part, dict) else None
    name = name.removeprefix("mmengine.") if isinstance(name, str) else None
    return {**part, "type": own[name]} if name in own else part
