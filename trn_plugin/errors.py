"""Errors that a user can cause and mend. The tools print them as one line and exit with 2."""

__all__ = ["CheckpointError", "ConfigError", "DataError", "TrnPluginError"]


class TrnPluginError(Exception):
    """Base of the errors below: what was expected, what was found, and where."""


class ConfigError(TrnPluginError, ValueError):
    """A config value that cannot be used; the message names its key path."""


class DataError(TrnPluginError, ValueError):
    """A file or record that cannot be used; the message names file and line."""


class CheckpointError(TrnPluginError, RuntimeError):
    """A checkpoint or exported model that cannot be used; the message names the file."""
