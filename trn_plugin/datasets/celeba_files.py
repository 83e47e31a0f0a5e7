"""Find CelebA's files in any of its distributed layouts."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from trn_plugin.errors import DataError

__all__ = ["SOURCE", "CelebAFiles"]

SOURCE = (
    "CelebA comes from its authors' page 'Large-scale CelebFaces Attributes (CelebA) Dataset', "
    "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
)
NESTS = (".", "celeba", "CelebA")  # torchvision keeps the files in root/celeba
FOLDERS = (".", "Anno", "Eval", "Img")


class CelebAFiles(NamedTuple):
    """The files of a data root."""

    root: str

    def found(self, name: str, exists: Callable[[str], bool] = os.path.isfile) -> str | None:
        """The path of a file or folder in any layout; None if it is missing.

        An absolute path is returned as it is; a CSV file may replace a text file.
        """
        stem, ending = os.path.splitext(name)
        for given in (name, f"{stem}.csv") if ending == ".txt" else (name,):
            for nest in NESTS:
                for folder in FOLDERS:
                    path = os.path.normpath(os.path.join(self.root, nest, folder, given))
                    if exists(path):
                        return path
        return None

    def path(self, name: str) -> str:
        """The path of a file in any layout."""
        found = self.found(name)
        if found is None:
            raise DataError(
                f"file '{name}' is missing: expected it in the data root '{self.root}' or its "
                f"Anno or Eval (CELEBA_ROOT); {SOURCE}"
            )
        return found

    def pictures(self, name: str, needed: bool) -> str:
        """The folder of the pictures, which may be nested in another of the same name."""
        found = self.found(name, os.path.isdir)
        if found is None and needed:
            raise DataError(
                f"folder '{name}' of the pictures is missing: expected it in the data root "
                f"'{self.root}' or its Img (CELEBA_ROOT); {SOURCE}"
            )
        inner = os.path.join(found or "", os.path.basename(name))
        if found and os.path.isdir(inner) and not _has_files(found):
            return inner
        return found or os.path.join(self.root, name)


def _has_files(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_file() for entry in entries)
