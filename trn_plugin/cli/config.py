"""Load the config of a command and build its runner; the arguments that commands share."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

from trn_plugin import packaged
from trn_plugin.cli.running import one_line
from trn_plugin.config_checks import check_sections, config_errors
from trn_plugin.engine.data_config import spread_input_size
from trn_plugin.errors import ConfigError

__all__ = [
    "add_config_arguments",
    "add_launcher_argument",
    "build_runner",
    "load_config",
    "start_process_group",
    "use_mixed_precision",
    "work_dir",
]

PACKAGED_BASE = rf"(?m)^[^#\n]*?\b({packaged.NAME}::[\w./-]+)"
# config keys that are read, but not by Runner.__init__
EXTRA_KEYS = (
    *("activation_checkpointing", "auto_scale_lr", "compile", "custom_imports", "default_scope"),
    *("efficient_conv_bn_eval", "find_unused_parameters", "input_size", "model_wrapper_cfg"),
    *("non_finite", "resume_schedule", "runner_type", "save_on_sigterm", "sync_bn"),
)


def add_config_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Add CONFIG, which is required unless ``optional``, and --cfg-options."""
    parser.add_argument(
        "config",
        nargs="?" if optional else None,
        help="config file, or trn_plugin::PATH for a config of the package",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Options,
        metavar="KEY=VALUE",
        help="change values of the config, e.g. model.backbone.model_name=convnext_atto",
    )


class _Options(DictAction):
    """MMEngine's KEY=VALUE parsing, with mistakes reported as argparse errors."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (ValueError, AssertionError, RecursionError):
                parser.error(f"{option_string}: expected KEY=VALUE, got {value!r}")


def load_config(path: str | os.PathLike, options: dict | None = None) -> Config:
    """Read a config file and apply ``--cfg-options``; ``trn_plugin::PATH`` is a packaged config.

    If the config sets ``input_size``, the data sets and the backbone get that size. The working
    directory is on the import path of ``custom_imports``.

    Raises:
        ConfigError: no such file, not a config, or an option that does not fit the config.
    """
    path = packaged.config_path(path)
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: no such config file")
    if os.getcwd() not in sys.path:  # for a user's custom_imports
        sys.path.insert(0, os.getcwd())
    try:
        config = Config.fromfile(path)
    except SystemExit as error:
        raise ConfigError(f"{path}: not a usable config: it ends the program") from error
    except Exception as error:  # a config is code and may raise anything
        if isinstance(error, (ValueError, FileNotFoundError)):  # perhaps a wrong _base_
            for base in re.findall(PACKAGED_BASE, Path(path).read_text("utf-8", "replace")):
                packaged.config_path(base)
        text, failed = one_line(error), getattr(error.__cause__, "__context__", None)
        if isinstance(failed, ImportError):  # raised by custom_imports
            text = f"{text.partition(', the current sys.path')[0]}: {one_line(failed)}"
        raise ConfigError(f"{path}: not a usable config: {text}") from error
    packaged.drop_scope(config)
    if options:
        _merge(config, options)
    check_sections(config)
    if not isinstance(config.get("model"), dict):
        raise ConfigError(f"{path}: expected a config with a 'model', found none")
    spread_input_size(config)
    init_default_scope(config.get("default_scope", "trn_plugin"))
    return config


def _merge(config: Config, options: dict) -> None:
    """Apply ``--cfg-options``; refuse keys that nothing reads."""
    from mmengine.runner import Runner

    read = {*EXTRA_KEYS, *inspect.signature(Runner.__init__).parameters} - {"self"}
    for key in options:
        name = key.split(".")[0]
        if name in read:
            continue
        user_code = _imports_user_code(config)  # may read any key
        known = {*config, *read} if user_code else read
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        if name not in config and close:
            raise ConfigError(f"--cfg-options {key}: no such key, did you mean {close[0]!r}?")
        instead = _keys_with_same_value(config, key, read)
        if instead or not user_code:
            hint = f"; set {' and '.join(instead[:6])}" if instead else ""
            raise ConfigError(
                f"--cfg-options {key}: nothing reads {name!r} when the config is built{hint}"
            )
    size = options.get("input_size", config.get("input_size"))
    for key, value in options.items():
        if key.endswith("dataset.input_size") and size not in (None, value):
            raise ConfigError(
                f"--cfg-options {key}: found {value}, but input_size is {size}: set input_size "
                "alone"
            )
        try:
            config.merge_from_dict({key: value})
        except Exception as error:  # MMEngine raises errors of many types
            raise ConfigError(f"--cfg-options {key}: {one_line(error)}") from error
    if any(key.split(".")[0] == "custom_imports" for key in options):
        with config_errors("custom_imports"):
            import_modules_from_strings(**config.custom_imports)


def _imports_user_code(config: Config) -> bool:
    """Whether ``custom_imports`` names modules outside this package."""
    imports = (config.get("custom_imports") or {}).get("imports", ["trn_plugin.registry"])
    return imports not in ("trn_plugin.registry", ["trn_plugin.registry"])


def _keys_with_same_value(config: Config, key: str, read: set[str]) -> list[str]:
    """Key paths that are read and have the same value as ``key``, which is not read.

    Paths that also end in the same name are preferred; they are all if the config has no such key.
    A bool or integer alone is no match, since many keys have the same one.
    """

    def paths(value, path: str = "") -> Iterator[tuple[str, object]]:
        yield path, value
        if isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        for name, inside in value.items() if isinstance(value, dict) else ():
            yield from paths(inside, f"{path}.{name}" if path else f"{name}")

    values = dict(paths(config.to_dict()))
    value, last = values.get(key), key.rpartition(".")[2]
    same = [
        path
        for path, other in values.items()
        if path.split(".")[0] in read
        and (key not in values or (type(other) is type(value) and other == value))
    ]
    named = [path for path in same if path.rpartition(".")[2] == last]
    return named or ([] if value is None or isinstance(value, (bool, int)) else same)


def build_runner(config: Config):
    """Build the config's ``runner_type``, which is ``SafeRunner`` by default.

    Raises:
        ConfigError: an unregistered class, or arguments that a class does not accept.
    """
    from trn_plugin.registry import RUNNERS

    config.setdefault("runner_type", "SafeRunner")
    check_sections(config)  # it may have changed since load_config
    with config_errors("config"):
        return RUNNERS.build(config)


def work_dir(
    config: Config, given: str | os.PathLike | None, config_path: str | os.PathLike
) -> str:
    """The work directory: --work-dir, else the config's, else work_dirs/<config name>."""
    default = Path("work_dirs") / Path(config_path).stem
    return os.fspath(given or config.get("work_dir") or str(default))


def start_process_group(launcher: str) -> None:
    """Start torch.distributed with gloo if there is no CUDA, which MMEngine's set-up requires."""
    import torch

    if launcher == "none" or torch.cuda.is_available():
        return
    if launcher != "pytorch":
        raise ConfigError(f"--launcher {launcher} needs CUDA; on CPUs use --launcher pytorch")
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise ConfigError(
            f"--launcher pytorch: {', '.join(missing)} not set; start with "
            "torchrun --nproc-per-node N tools/train.py CONFIG --launcher pytorch"
        )
    torch.distributed.init_process_group("gloo")


def use_mixed_precision(config: Config) -> None:
    """--amp: replace the config's ``OptimWrapper`` by ``AmpOptimWrapper``.

    Raises:
        ConfigError: no CUDA, or another type of wrapper.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("--amp needs CUDA: MMEngine's AmpOptimWrapper does not run on CPUs")
    kind = config.optim_wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise ConfigError(f"--amp replaces OptimWrapper, but optim_wrapper.type is {kind!r}")
    config.optim_wrapper.type = "AmpOptimWrapper"
    config.optim_wrapper.setdefault("loss_scale", "dynamic")
    if config.optim_wrapper.get("clip_grad"):
        # on overflow the gradient scaler skips the step and lowers its scale
        config.optim_wrapper.clip_grad.error_if_nonfinite = False


def add_launcher_argument(parser: argparse.ArgumentParser) -> None:
    """Add --launcher."""
    choices = ("none", "pytorch", "slurm")
    text = "launcher of a run with several processes (%(default)s)"
    parser.add_argument("--launcher", choices=choices, default="none", help=text)
