"""``trn_plugin::PATH``, a config of the installed package, for MMEngine.

MMEngine looks packages up in ``pkg_resources``, which setuptools 82 has dropped, and does not find
editable installs. So its lookup functions are patched to answer for this package.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from trn_plugin.errors import ConfigError, printable

__all__ = ["config_path", "drop_scope", "register"]

NAME = "trn_plugin"
PACKAGE = Path(__file__).parent
CONFIGS = PACKAGE / ".mim" / "configs"
ANSWERS = {"is_installed": True, "install_package": None, "get_installed_path": str(PACKAGE)}
LOOKUPS = ("mmengine.utils.package_utils", "mmengine.utils", "mmengine.config.config")


def config_path(path: str | os.PathLike) -> str:
    """Resolve ``trn_plugin::PATH`` to a file; return other paths unchanged.

    Raises:
        ConfigError: the package has no such config, or ``path`` is not a path.
    """
    if not isinstance(path, (str, os.PathLike)):
        found = printable(repr(path))
        raise ConfigError(f"config: expected the path of a file, found {found}")
    path = os.fsdecode(path)
    package, found, inside = path.partition("::")
    if not found or package != NAME:
        return path
    file = CONFIGS / inside
    if not file.is_file():
        raise ConfigError(f"{path}: no such config file in {CONFIGS}")
    return str(file)


def drop_scope(config) -> None:
    """Remove the ``_scope_`` that MMEngine adds to dicts of a ``_base_`` in another package.

    Functions would receive it as an argument. It is redundant if it is the default scope.
    """
    if config.get("default_scope") == NAME:
        _drop(list(config.values()))


def _drop(value) -> None:
    if isinstance(value, dict):
        if value.get("_scope_") == NAME:
            del value["_scope_"]
        value = list(value.values())
    for inside in value if isinstance(value, (list, tuple)) else ():
        _drop(inside)


def register() -> None:
    """Let MMEngine's ``Config.fromfile`` and ``hub.get_config`` find ``trn_plugin::``."""
    if NAME in MODULE2PACKAGE:
        return
    MODULE2PACKAGE[NAME] = NAME
    fromfile = Config.fromfile

    @functools.wraps(fromfile)
    def resolved(filename, *args, **kwargs):
        return fromfile(config_path(filename), *args, **kwargs)

    Config.fromfile = staticmethod(resolved)
    for module in filter(None, map(sys.modules.get, (*LOOKUPS, "mmengine.hub.hub"))):
        for name in ANSWERS.keys() & vars(module).keys():
            setattr(module, name, _patched(getattr(module, name), ANSWERS[name]))


def _patched(function, answer):
    """MMEngine's function, with a fixed answer for this package."""

    @functools.wraps(function)
    def patched(package, *args, **kwargs):
        return answer if package == NAME else function(package, *args, **kwargs)

    return patched
