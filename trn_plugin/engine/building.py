"""Mistakes in a config, as the registries and constructors report them, told as such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trn_plugin.errors import ConfigError, TrnPluginError, first_line

__all__ = ["config_errors"]


@contextmanager
def config_errors(where: str) -> Iterator[None]:
    """Turn what building from a config raises into ConfigError, with the place in front.

    Args:
        where (str): key path of the part that is built.
    """
    try:
        yield
    except TrnPluginError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ImportError, AssertionError) as error:
        text = first_line(error)
        if isinstance(error, KeyError) and error.args:
            text = str(error.args[0]).split(". Please check")[0]
        raise ConfigError(f"{where}: {text}") from error
