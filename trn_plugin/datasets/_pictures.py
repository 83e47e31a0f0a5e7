"""Which pictures of a table exist."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import numpy as np

from trn_plugin.datasets._inside import Inside

__all__ = ["existing"]


def existing(
    folder: str, paths: Iterable[str], where: Callable[[int], str], inside: Inside | None
) -> np.ndarray:
    """(N,) bool: paths at which there is a file. Each folder is listed once.

    Args:
        folder: the paths begin there.
        paths: N relative paths with forward slashes.
        where: names a row in errors.
        inside: refuses links out of a folder; None follows them.

    Raises:
        DataError: of `Inside`.
    """
    folders: dict[str, tuple[set[str], set[str]]] = {}
    there = []
    for row, path in enumerate(paths):
        parent, _, name = path.rpartition("/")
        if parent not in folders:
            own = os.path.normpath(os.path.join(folder, parent))
            folders[parent] = _files_and_links(own)
            if inside is not None:
                inside.check(os.path.join(own, name), where(row))
        files, links = folders[parent]
        if inside is not None and name in links:
            inside.check(os.path.normpath(os.path.join(folder, path)), where(row))
        # a file system may know names that it does not list so, of other capitals
        there.append(name in files or os.path.isfile(os.path.join(folder, path)))
    return np.array(there, dtype=bool)


def _files_and_links(folder: str) -> tuple[set[str], set[str]]:
    """Names of a folder's files, and of its links."""
    files, links = set(), set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    links.add(entry.name)
                if entry.is_file():
                    files.add(entry.name)
    except OSError:  # each of its files is missed
        pass
    return files, links
