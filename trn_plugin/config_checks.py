"""Validate config sections, and re-raise builder errors as ConfigError with the key path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trn_plugin.errors import ConfigError, TrnPluginError, first_line, printable

__all__ = ["check_complete", "check_sections", "config_errors"]

LIST, PLAIN = (list, tuple), (bool, int, float, str, bytes, list, tuple, dict)
DICTS = (
    "train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg default_hooks "
    "auto_scale_lr model optim_wrapper env_cfg randomness visualizer log_processor "
    "model_wrapper_cfg data_preprocessor strategy model.data_preprocessor model.heads "
    "optim_wrapper.optimizer optim_wrapper.paramwise_cfg"
)
NUMBERS = (
    "optim_wrapper.optimizer.lr optim_wrapper.optimizer.weight_decay model.neck.momentum "
    "optim_wrapper.accumulative_counts model.backbone.drop_rate model.backbone.drop_path_rate"
)
SECTIONS = (
    (dict, "a dict", DICTS),
    ((dict, *LIST), "a dict or a list", "param_scheduler val_evaluator test_evaluator"),
    (str, "text", "work_dir load_from default_scope experiment_name runner_type launcher"),
    ((str, int), "text or a number", "log_level"),
    (str, "text", "model.backbone.model_name model.backbone.checkpoint_path"),
    ((int, float), "a number", NUMBERS),
    (LIST, "a list", "custom_hooks model.data_preprocessor.mean model.data_preprocessor.std"),
    ((str, *LIST), "'all' or a list", "model.neck.relations"),
    ((str, *LIST), "a list", "model.neck.levels"),
    (dict, "a dict", "custom_imports"),
    (
        bool,
        "True or False",
        "resume save_on_sigterm randomness.deterministic randomness.diff_rank_seed "
        "log_processor.by_epoch env_cfg.cudnn_benchmark auto_scale_lr.enable "
        "find_unused_parameters",
    ),
    ((bool, dict), "True, False or a dict", "compile"),
)
CHOICES = dict(
    resume_schedule=("checkpoint", "config"), non_finite=("stop", "skip"), sync_bn=(None, "torch")
)
# options of sections in which MMEngine ignores unknown names
KNOWN = {
    "env_cfg": "cudnn_benchmark mp_cfg dist_cfg resource_limit",
    "auto_scale_lr": "enable base_batch_size",
    "custom_imports": "imports allow_failed_imports",
    "optim_wrapper.paramwise_cfg": "custom_keys norm_decay_mult bias_lr_mult bias_decay_mult "
    "dwconv_decay_mult dcn_offset_lr_mult flat_decay_mult bypass_duplicate",
}
TOGETHER = (
    "train_dataloader train_cfg optim_wrapper",
    "val_dataloader val_cfg val_evaluator",
    "test_dataloader test_cfg test_evaluator",
)
SCHEDULE_NUMBERS = "T_max begin end eta_min eta_min_ratio gamma power start_factor end_factor"
SHARDING = ("FSDP", "FullySharded", "DeepSpeed", "ColossalAI")  # in the names of MMEngine's classes


@contextmanager
def config_errors(where: str) -> Iterator[None]:
    """Re-raise errors from building a part of the config as ConfigError with its key path."""
    try:
        yield
    except ConfigError as error:
        kind, _, text = str(error).partition(": ")
        part = where.removesuffix(f"_{kind}").removesuffix("_cfg")
        if part == where or kind not in ("dataloader", "evaluator"):
            raise
        raise ConfigError(f"{part}_{kind}: {text}") from error
    except (TrnPluginError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # MMEngine, torch and users' classes may raise anything
        text = first_line(error)
        if isinstance(error, KeyError) and error.args:
            text = str(error.args[0]).split(". Please check")[0]
        raise ConfigError(f"{where}: {text}") from error


def check_sections(config) -> None:
    """Raise ConfigError for a section of the wrong type, or an unknown choice or option."""
    for kinds, name, keys in SECTIONS:
        for key in keys.split():
            _check(key, _at(config, key), kinds, name)
    for key, choices in CHOICES.items():
        if config.get(key, choices[0]) not in choices:
            known = " or ".join(map(repr, choices))
            raise ConfigError(f"{key}: expected {known}, found {printable(repr(config[key]))}")
    for key, known in KNOWN.items():
        constructed = key.endswith(".paramwise_cfg") and _at(config, "optim_wrapper.constructor")
        for name in () if constructed else _at(config, key) or ():
            if name not in known.split():
                raise ConfigError(f"{key}: expected some of {known}, found {printable(name)}")
    for part in ("train", "val", "test"):
        loader = config.get(f"{part}_dataloader") or {}
        if isinstance(loader, dict):
            _check(f"{part}_dataloader.dataset", loader.get("dataset"), dict, "a dict")
            for key, kinds, name in (("data_root", str, "text"), ("pipeline", LIST, "a list")):
                where = f"{part}_dataloader.dataset.{key}"
                _check(where, _at(config, where), kinds, name)
    schedules = config.get("param_scheduler")
    for number, part in enumerate(schedules if isinstance(schedules, LIST) else [schedules]):
        where = f"param_scheduler.{number}" if isinstance(schedules, LIST) else "param_scheduler"
        for key in SCHEDULE_NUMBERS.split() if isinstance(part, dict) else ():
            _check(f"{where}.{key}", part.get(key), (int, float), "a number")
        if isinstance(part, dict) and part.get("start_factor") == 0:
            raise ConfigError(f"{where}.start_factor: expected a number above 0, found 0")
    for key in ("strategy", "model_wrapper_cfg"):
        kind = str((config.get(key) or {}).get("type"))
        if any(word in kind for word in SHARDING):
            found = printable(kind)
            raise ConfigError(f"{key}.type: expected one that shards no parameters, found {found}")
    for number, hook in enumerate(config.get("custom_hooks") or ()):
        _check(f"custom_hooks.{number}", hook, dict, "a dict")


def check_complete(config) -> None:
    """Raise ConfigError if a training, validation or test lacks one of its three sections."""
    for keys in TOGETHER:
        missing = [key for key in keys.split() if config.get(key) is None]
        if missing and len(missing) < 3:
            found = [key for key in keys.split() if key not in missing]
            others = f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'}"
            raise ConfigError(
                f"{' and '.join(missing)}: missing, but {others} set; set all three or none"
            )


def _at(config, path: str):
    """The value at a key path; None if there is none."""
    section, *inside = path.split(".")
    value = config.get(section)
    for key in inside:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _check(key: str, value, kinds, name: str) -> None:
    if isinstance(value, PLAIN) and not isinstance(value, kinds):
        raise ConfigError(f"{key}: expected {name}, found {printable(repr(value))}")
