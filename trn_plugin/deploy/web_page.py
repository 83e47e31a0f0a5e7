"""Write a web page that runs an exported model."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from trn_plugin.deploy.records import write_errors
from trn_plugin.errors import ConfigError

__all__ = ["MODEL", "check_page", "write_page"]

MODEL = "model.onnx"
"""File name of the model beside the page."""
MARK = b"trn-plugin-page"
"""Marks every file of the page; files without it are not overwritten."""


def _page() -> dict[str, bytes]:
    """The page's files by name."""
    web = files("trn_plugin.deploy").joinpath("web")
    return {file.name: file.read_bytes() for file in web.iterdir() if file.is_file()}


def check_page(folder: str | os.PathLike) -> Path:
    """Check that the page can be written into a folder, which need not exist.

    Returns:
        Path: the model file that the page loads.

    Raises:
        ConfigError: the page would overwrite a file that does not belong to a page.
    """
    folder = Path(folder)
    with write_errors(folder):
        for name in _page():
            file = folder / name
            if file.exists() and MARK not in file.read_bytes():
                raise ConfigError(
                    f"{file}: exists and is not a file of this page: choose another folder"
                )
    return folder / MODEL


def write_page(folder: str | os.PathLike) -> Path:
    """Copy the page's files into a folder; ``npm ci`` there installs onnxruntime-web.

    Returns:
        Path: the model file that the page loads.

    Raises:
        ConfigError: the folder cannot be written, or see :func:`check_page`.
    """
    folder, model = Path(folder), check_page(folder)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in _page().items():
            (folder / name).write_bytes(content)
    return model
