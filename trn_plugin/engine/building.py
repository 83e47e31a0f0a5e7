"""MMEngine's Runner, its mistakes in a config told in one line with the key path."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from mmengine.runner import Runner

from trn_plugin.config_checks import config_errors

__all__ = ["ToldRunner", "replaced"]


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
