"""Mistakes in a config, told in one line with the key path."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.runner import Runner

from trn_plugin.errors import ConfigError, TrnPluginError, first_line, printable

__all__ = ["ToldRunner", "check_sections", "config_errors"]

DICT, LIST, TEXT, BOOL = (dict,), (list, tuple), (str,), (bool,)
SECTIONS = {
    **dict.fromkeys(("train_dataloader", "val_dataloader", "test_dataloader"), DICT),
    **dict.fromkeys(("train_cfg", "val_cfg", "test_cfg", "default_hooks", "auto_scale_lr"), DICT),
    **dict.fromkeys(("model", "optim_wrapper", "env_cfg", "randomness", "visualizer"), DICT),
    **dict.fromkeys(("log_processor", "model_wrapper_cfg", "data_preprocessor"), DICT),
    **dict.fromkeys(("param_scheduler", "val_evaluator", "test_evaluator"), DICT + LIST),
    **dict.fromkeys(("work_dir", "load_from", "default_scope", "experiment_name"), TEXT),
    **dict.fromkeys(("runner_type", "launcher"), TEXT),
    "log_level": (str, int),
    "custom_hooks": LIST,
    "resume": BOOL,
    "compile": BOOL + DICT,
}
NAMES = {dict: "a dict", list: "a list", str: "text", bool: "True or False", int: "a number"}


@contextmanager
def config_errors(where: str) -> Iterator[None]:
    """Turn what building from a config raises into ConfigError, with the place in front.

    Args:
        where (str): key path of the part that is built.
    """
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
    """Refuse a section of a config that is of another type than its readers expect.

    Raises:
        ConfigError: naming the key.
    """
    for key, kinds in SECTIONS.items():
        _check(key, config.get(key), kinds)
    for part in ("train", "val", "test"):
        loader = config.get(f"{part}_dataloader") or {}
        if isinstance(loader, dict):
            _check(f"{part}_dataloader.dataset", loader.get("dataset"), DICT)
    for number, hook in enumerate(config.get("custom_hooks") or ()):
        _check(f"custom_hooks.{number}", hook, DICT)


def _check(key: str, value, kinds: tuple[type, ...]) -> None:
    plain = value is None or isinstance(value, (bool, int, float, str, bytes, list, tuple, dict))
    if value is not None and plain and not isinstance(value, kinds):
        names = " or ".join(dict.fromkeys(NAMES[each] for each in kinds if each in NAMES))
        raise ConfigError(f"{key}: expected {names}, found {printable(repr(value))}")


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
    build_logger = _told("build_logger", "log_level")
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

    def build_log_processor(self, log_processor):
        """As MMEngine's."""
        with config_errors("log_processor"):
            built = super().build_log_processor(log_processor)
            if not isinstance(built.window_size, int) or built.window_size < 1:
                raise ValueError(
                    f"window_size: expected a number of at least 1, found {built.window_size!r}"
                )
        return built

    def set_randomness(self, *args, **kwargs):
        """As MMEngine's."""
        with config_errors("randomness"):
            super().set_randomness(*args, **kwargs)

    def register_default_hooks(self, hooks=None):
        """As MMEngine's."""
        self._places = {id(hook): f"default_hooks.{name}" for name, hook in (hooks or {}).items()}
        super().register_default_hooks(hooks)

    def register_custom_hooks(self, hooks):
        """As MMEngine's."""
        self._places = {id(hook): f"custom_hooks.{number}" for number, hook in enumerate(hooks)}
        super().register_custom_hooks(hooks)

    def register_hook(self, hook, priority=None):
        """As MMEngine's."""
        with config_errors(getattr(self, "_places", {}).get(id(hook), "hooks")):
            super().register_hook(hook, priority)
