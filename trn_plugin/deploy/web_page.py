"""Write a web page that runs an exported model."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from trn_plugin.errors import ConfigError

__all__ = ["MODEL", "write_page"]

MODEL = "model.onnx"
"""File name of the model beside the page."""


def write_page(folder: str | os.PathLike) -> Path:
    """Copy the page's files into a folder; ``npm ci`` there installs onnxruntime-web.

    Returns:
        Path: the model file that the page loads.

    Raises:
        ConfigError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files("trn_plugin.deploy").joinpath("web").iterdir():
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return folder / MODEL
