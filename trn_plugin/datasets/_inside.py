"""Paths that annotation files give may not leave the data root, by a symbolic link either."""

from __future__ import annotations

import os

from trn_plugin.errors import DataError

__all__ = ["Inside"]


class Inside:
    """Checks paths against a folder; each folder on the way is resolved once.

    Args:
        root: the folder. It may itself be a link.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def check(self, path: str, where: str) -> None:
        """Refuse a path that links lead out of the root; it need not exist.

        Raises:
            DataError: naming ``where``, the path and the place that it leads to.
        """
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        real = os.path.join(self._folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if real != self._real_root and not real.startswith(self._real_root.rstrip(os.sep) + os.sep):
            raise DataError(
                f"{where}: {path} is a symbolic link out of the data root, to {real}; set "
                "follow_links=True if it is meant to be"
            )
