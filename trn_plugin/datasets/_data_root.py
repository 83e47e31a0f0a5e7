"""Refuse paths of annotation files that leave the data root through a symbolic link."""

from __future__ import annotations

import os

from trn_plugin.errors import DataError

__all__ = ["DataRoot"]


class DataRoot:
    """A folder that paths must stay in; every parent folder is resolved once.

    Args:
        root: the folder; it may itself be a link.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def check(self, path: str, where: str) -> None:
        """Refuse a path whose links lead out of the root; the path need not exist.

        Raises:
            DataError: with ``where``, the path and its target.
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
