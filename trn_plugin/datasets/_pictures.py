"""Find the pictures of a table, and refuse paths that leave the data root."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

import numpy as np
from mmengine.logging import print_log

from trn_plugin.errors import DataError, PictureError

__all__ = ["DataRoot", "rows_with_picture"]


class DataRoot:
    """Refuses paths outside a folder; each parent folder is resolved once.

    Args:
        root: the folder; it may itself be a link.
    """

    def __init__(self, root: str) -> None:
        self._real_root = os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def check(self, path: str, where: str) -> None:
        """Refuse a path whose links lead out of the root; the path need not exist."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if real != self._real_root and not real.startswith(self._real_root.rstrip(os.sep) + os.sep):
            raise DataError(
                f"{where}: {path} is a symbolic link out of the data root, to {real}; set "
                "follow_links=True to allow it"
            )


def rows_with_picture(
    folder: str,
    paths: Iterable[str],
    where: Callable[[int], str],
    root: str | None,
    skip_missing: bool,
) -> np.ndarray:
    """(n,) indices of the paths that are files. Each folder is listed once.

    Args:
        folder: start of the relative paths.
        paths: relative paths with forward slashes.
        where: gives the ``file:line`` of a row, for errors.
        root: folder that links may not leave; None allows all links.
        skip_missing: log missing pictures instead of raising an error.
    """
    data_root = None if root is None else DataRoot(root)
    links: dict[str, dict[str, bool]] = {}  # by folder and file: whether it is a link
    present, first = [], ""  # a flag for each row, and the first missing picture
    for row, path in enumerate(paths):
        parent, _, name = path.rpartition("/")
        is_new = parent not in links
        if is_new:
            links[parent] = _links(os.path.join(folder, parent))
        if data_root is not None and (is_new or links[parent].get(name)):
            data_root.check(os.path.normpath(os.path.join(folder, path)), where(row))
        # isfile also finds names in other case on a case-insensitive file system
        exists = name in links[parent] or os.path.isfile(os.path.join(folder, path))
        if not exists and not first:
            first = f"{where(row)}: no picture {os.path.normpath(os.path.join(folder, path))}"
        present.append(exists)
    if first:
        text = f"{first}; {present.count(False)} of {len(present)} pictures are missing"
        if not skip_missing:
            raise PictureError(text)
        print_log(f"{text}: left out (skip_unreadable)", "current", logging.WARNING)
    return np.flatnonzero(present)


def _links(folder: str) -> dict[str, bool]:
    """Whether each file of a folder is a link; no files if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries if entry.is_file()}
    except OSError:
        return {}
