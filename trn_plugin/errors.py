"""Errors that a user can cause and fix. The commands print one line and exit with status 2."""

import reprlib

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "NewerFormatError",
    "PictureError",
    "TrainingError",
    "TrnPluginError",
    "first_line",
    "printable",
    "shown",
]


class TrnPluginError(Exception):
    """Base class; messages say what was expected, what was found, and where."""


class ConfigError(TrnPluginError, ValueError):
    """A config value that cannot be used; the message names its key path."""


class DataError(TrnPluginError, ValueError):
    """A file or record that cannot be used; the message names file and line."""


class PictureError(DataError):
    """A picture that is missing or cannot be decoded; the message names its file."""


class CheckpointError(TrnPluginError, RuntimeError):
    """A checkpoint or exported model that cannot be used; the message names the file."""


class NewerFormatError(CheckpointError):
    """A checkpoint that only a newer version of this package can read."""


class TrainingError(TrnPluginError, RuntimeError):
    """A training that cannot continue; the message says when and why."""


def printable(text: object, longest: int = 200) -> str:
    """Text of a file for a message: without control characters, cut to ``longest``."""
    text = str(text)
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:longest])
    return escaped if len(text) <= longest else f"{escaped}..."


def shown(value: object) -> str:
    """A value of a file for a message: short, even if deeply nested."""
    try:
        return printable(reprlib.repr(value))
    except ValueError:  # an integer of too many digits
        return f"a {type(value).__name__}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if the message is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
