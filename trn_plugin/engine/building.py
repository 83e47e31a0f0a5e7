"""MMEngine's Runner, with errors from building re-raised as ConfigError with the key path."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from mmengine.runner import Runner

from trn_plugin.config_checks import config_errors

__all__ = ["ConfigErrorRunner", "replaced"]


def _with_config_errors(name: str, where: str):
    """A method of MMEngine's ``Runner``; its errors become ConfigError at the key ``where``."""
    method = getattr(Runner, name)

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        with config_errors(where):
            return method(self, *args, **kwargs)

    return wrapped


class ConfigErrorRunner(Runner):
    """MMEngine's Runner; errors from building become ConfigError with the key path."""

    setup_env = _with_config_errors("setup_env", "env_cfg")
    set_randomness = _with_config_errors("set_randomness", "randomness")
    build_logger = _with_config_errors("build_logger", "log_level")
    build_log_processor = _with_config_errors("build_log_processor", "log_processor")
    build_visualizer = _with_config_errors("build_visualizer", "visualizer")
    build_model = _with_config_errors("build_model", "model")
    wrap_model = _with_config_errors("wrap_model", "model_wrapper_cfg")
    build_optim_wrapper = _with_config_errors("build_optim_wrapper", "optim_wrapper")
    build_param_scheduler = _with_config_errors("build_param_scheduler", "param_scheduler")
    build_evaluator = _with_config_errors("build_evaluator", "evaluator")
    build_train_loop = _with_config_errors("build_train_loop", "train_cfg")
    build_val_loop = _with_config_errors("build_val_loop", "val_cfg")
    build_test_loop = _with_config_errors("build_test_loop", "test_cfg")
    scale_lr = _with_config_errors("scale_lr", "auto_scale_lr")


def replaced(part, own: Mapping):
    """A part of a config with its MMEngine ``type``, a name or a class, replaced by ours."""
    kind = part.get("type") if isinstance(part, dict) else None
    name = f"{kind.__module__}.{kind.__name__}" if isinstance(kind, type) else str(kind)
    name = name.rpartition(".")[2] if name.startswith("mmengine.") else name
    return {**part, "type": own[name]} if name in own else part
