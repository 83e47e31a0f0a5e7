"""Find the pictures of a table that are missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

import numpy as np
from mmengine.logging import print_log

from trn_plugin.datasets._data_root import DataRoot
from trn_plugin.errors import PictureError

__all__ = ["existing_files", "report_missing"]


def existing_files(
    folder: str, paths: Iterable[str], where: Callable[[int], str], root: DataRoot | None
) -> np.ndarray:
    """(N,) bool: paths that are files. Each folder is listed once.

    Args:
        folder: start of the relative paths.
        paths: N relative paths with forward slashes.
        where: gives the ``file:line`` of a row, for errors.
        root: refuses links that leave it; None follows them.

    Raises:
        DataError: a link leaves ``root``.
    """
    folders: dict[str, tuple[set[str], set[str]]] = {}
    there = []
    for row, path in enumerate(paths):
        parent, _, name = path.rpartition("/")
        if parent not in folders:
            own = os.path.normpath(os.path.join(folder, parent))
            folders[parent] = _files_and_links(own)
            if root is not None:
                root.check(os.path.join(own, name), where(row))
        files, links = folders[parent]
        if root is not None and name in links:
            root.check(os.path.normpath(os.path.join(folder, path)), where(row))
        # isfile: some file systems ignore the case of letters
        there.append(name in files or os.path.isfile(os.path.join(folder, path)))
    return np.array(there, dtype=bool)


def _files_and_links(folder: str) -> tuple[set[str], set[str]]:
    """Names of the files and of the links in a folder."""
    files, links = set(), set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    links.add(entry.name)
                if entry.is_file():
                    files.add(entry.name)
    except OSError:  # no such folder: all its files are missing
        pass
    return files, links


def report_missing(first: str, count: int, total: int, skip: bool) -> None:
    """Raise PictureError for missing pictures, ``first`` describing one, or log it if ``skip``."""
    text = f"{first}; {count} of {total} pictures are missing"
    if not skip:
        raise PictureError(text)
    print_log(f"{text}: left out (skip_unreadable)", "current", logging.WARNING)
