"""``trn_plugin::PATH``, a config of the installed package, for MMEngine.

MMEngine looks for packages by ``pkg_resources``, which setuptools 82 has dropped, and does not find
those that are installed editable. Where it asks for this package it is told.
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
ASKING = ("mmengine.utils.package_utils", "mmengine.utils", "mmengine.config.config")


def config_path(path: str | os.PathLike) -> str:
    """The file of ``trn_plugin::PATH``; other paths as they are.

    Raises:
        ConfigError: the package has no such config, or this is no path.
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
    """Remove the ``_scope_`` that MMEngine notes in dicts of a base of another package.

    It would reach functions as an argument; where the package's is the default scope it says
    nothing.
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
    def of_path(filename, *args, **kwargs):
        return fromfile(config_path(filename), *args, **kwargs)

    Config.fromfile = staticmethod(of_path)
    for module in filter(None, map(sys.modules.get, (*ASKING, "mmengine.hub.hub"))):
        for name in ANSWERS.keys() & vars(module).keys():
            setattr(module, name, _told(getattr(module, name), ANSWERS[name]))


def _told(theirs, answer):
    """MMEngine's function, but for this package."""

    @functools.wraps(theirs)
    def told(package, *args, **kwargs):
        return answer if package == NAME else theirs(package, *args, **kwargs)

    return told
