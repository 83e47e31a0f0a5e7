"""Inputs and output paths of ``trn-plugin predict``."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2

from trn_plugin.errors import DataError, shown
from trn_plugin.files import line_not_in_utf8

__all__ = ["BoxRow", "Found", "find_inputs", "output_paths", "read_boxes", "whole_pixels"]

Box = tuple[int, int, int, int]

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Suffixes of pictures; the first bytes decide for other files."""
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
BOX_COLUMNS = ("image", "x0", "y0", "x1", "y1")


class BoxRow(NamedTuple):
    """A row of a file of boxes."""

    picture: Path
    box: Box
    where: str
    """``file:line``"""


class Found(NamedTuple):
    """Pictures and videos found, each file once, in order."""

    pictures: list[Path]
    videos: list[Path]
    left_out: list[Path]
    """Files in folders that are neither pictures nor videos."""

    def left_out_message(self) -> str:
        """The files left out, in one line; empty without any."""
        if not self.left_out:
            return ""
        first = ", ".join(map(str, self.left_out[:3]))
        more = f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
        files = f"{len(self.left_out)} file{'s' * (len(self.left_out) > 1)}"
        return f"{files} left out, neither pictures nor videos: {first}{more}"


def find_inputs(arguments: Sequence[str | Path], exclude: Path | None = None) -> Found:
    """Find pictures and videos among paths, and in folders and their subfolders.

    Args:
        arguments: paths of pictures, videos or folders; hidden files in folders are skipped.
        exclude: a folder to skip, where earlier results may lie.

    Raises:
        DataError: a path does not exist, or a folder holds neither pictures nor videos.
    """
    pictures, videos, left_out = found = Found([], [], [])
    for path in map(Path, arguments):
        if not path.exists():
            raise DataError(f"{path}: no such picture, video or folder")
        before = len(pictures) + len(videos)
        for file in _files(path, exclude) if path.is_dir() else [path]:
            suffix = file.suffix.lower()
            picture = file == path or suffix in SUFFIXES or _is_picture(file)
            kind = videos if suffix in VIDEO_SUFFIXES else pictures if picture else left_out
            kind.append(file)
        if len(pictures) + len(videos) == before:
            raise DataError(f"{path}: a folder without pictures or videos")
    return Found(*(list(dict.fromkeys(files)) for files in found))


def _files(folder: Path, exclude: Path | None) -> list[Path]:
    """The files of a folder, then of its subfolders, sorted; no hidden ones, no ``exclude``."""
    skipped = None if exclude is None else exclude.resolve()
    found = []
    for place, folders, names in os.walk(folder):
        inside = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if skipped is not None and skipped in (inside.resolve(), *inside.resolve().parents):
            folders.clear()
            continue
        found += [inside / name for name in sorted(names) if not name.startswith(".")]
    return found


def _is_picture(path: Path) -> bool:
    """Whether OpenCV recognises the first bytes."""
    try:
        return path.is_file() and cv2.haveImageReader(str(path))
    except cv2.error:
        return False


def whole_pixels(values: Sequence[str | float], where: str) -> Box:
    """Four numbers rounded to whole pixels, as a box (x0, y0, x1, y1).

    Raises:
        DataError: a value is not a number, or the box is empty.
    """
    try:
        box = tuple(round(float(value)) for value in values)
    except (ValueError, OverflowError, TypeError):
        raise DataError(
            f"{where}: expected four numbers x0 y0 x1 y1, found {str(values)[:200]}"
        ) from None
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise DataError(f"{where}: box {box} is empty: expected x0 < x1 and y0 < y1")
    return box


def read_boxes(path: str | Path) -> list[BoxRow]:
    """Read a CSV file with the header ``image,x0,y0,x1,y1``, one row per object, in pixels.

    Relative paths are searched beside the CSV file, then in the current folder.

    Raises:
        DataError: naming file and line: the file, a column or a row cannot be used.
    """
    path = Path(path)
    faces = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in BOX_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path}:1: expected the columns {','.join(BOX_COLUMNS)}, "
                    f"found {','.join(reader.fieldnames or ())[:100] or 'none'}"
                )
            for row in reader:
                where = f"{path}:{reader.line_num}"
                values = [row[name] for name in BOX_COLUMNS]
                # None is the key of cells beyond the header, and the value of missing cells
                if None in row or None in values or not values[0]:
                    cells, count = list(row.values()), len(reader.fieldnames)
                    raise DataError(f"{where}: expected {count} values, found {shown(cells)}")
                beside = path.parent / values[0]
                picture = beside if beside.exists() else Path(values[0])
                if not picture.is_file():
                    raise DataError(f"{where}: no such picture: {values[0][:200]}")
                faces.append(BoxRow(picture, whole_pixels(values[1:], where), where))
    except OSError as error:
        raise DataError(f"{path}: cannot read the boxes: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = line_not_in_utf8(path)
        raise DataError(f"{path}:{line}: not a CSV file in UTF-8: {error}") from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file: {error}") from None
    if not faces:
        raise DataError(f"{path}: holds no boxes")
    return faces


def output_paths(inputs: Sequence[Path], folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Paths in ``folder`` for rendered pictures and videos, all different, none an input.

    Args:
        inputs: pictures and videos.
        folder: output folder.
        suffixes: suffix of each output, such as ".jpg".
    """
    # some file systems ignore case
    taken, used = {path.name.casefold() for path in inputs}, Counter()
    paths = []
    for picture, suffix in zip(inputs, suffixes, strict=True):
        name = picture.name
        while name.casefold() in taken:
            used[picture.stem] += 1
            number = f"-{used[picture.stem]}" if used[picture.stem] > 1 else ""
            name = f"{picture.stem}{number}_predicted{suffix}"
        taken.add(name.casefold())
        paths.append(folder / name)
    return paths
