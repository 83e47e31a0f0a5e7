"""The pictures and boxes that ``trn-plugin predict`` is given, and where it writes."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trn_plugin.errors import DataError
from trn_plugin.text_files import line_not_in_utf8

__all__ = ["BoxRow", "find_pictures", "output_paths", "read_boxes", "whole_pixels"]

Box = tuple[int, int, int, int]

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
BOX_COLUMNS = ("image", "x0", "y0", "x1", "y1")


class BoxRow(NamedTuple):
    """A row of a file of boxes."""

    picture: Path
    box: Box
    where: str
    """``file:line``"""


def find_pictures(arguments: Sequence[str], exclude: Path | None = None) -> list[Path]:
    """The pictures named, and those in the folders named and in their subfolders, in order.

    Args:
        arguments: paths of pictures or folders.
        exclude: a folder left out of the search, where earlier results may lie.

    Raises:
        DataError: if a path does not exist or a folder holds no picture.
    """
    pictures: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
                and file.is_file()
                and not (exclude is not None and exclude.resolve() in file.resolve().parents)
            )
            if not inside:
                endings = ", ".join(sorted(SUFFIXES))
                raise DataError(f"{path}: a folder without pictures ({endings})")
            pictures.update(dict.fromkeys(inside))
        elif path.exists():
            pictures[path] = None
        else:
            raise DataError(f"{path}: no such picture or folder")
    return list(pictures)


def whole_pixels(values: Sequence[str | float], where: str) -> Box:
    """Four numbers, rounded to whole pixels, as a box (x0, y0, x1, y1).

    Raises:
        DataError: if one is not a number, or the box is empty.
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
    """Read a CSV file with the header ``image,x0,y0,x1,y1``, one row a face, boxes in pixels.

    A relative path of a picture is looked for beside the CSV file, then in the current folder.

    Raises:
        DataError: if the file, a column or a row cannot be used; the message gives the line.
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
                if None in row:  # where the reader puts cells beyond the header's
                    expected, found = (
                        len(reader.fieldnames),
                        len(reader.fieldnames) + len(row[None]),
                    )
                    raise DataError(f"{where}: expected {expected} values, found {found}")
                values = [row[name] for name in BOX_COLUMNS]
                if None in values or not values[0]:
                    raise DataError(f"{where}: expected {len(BOX_COLUMNS)} values")
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
    """Where each drawn picture or video goes: names in ``folder``, all different, none an input.

    Args:
        inputs: pictures and videos.
        folder: for all of them.
        suffixes: of each output, such as ".jpg".
    """
    taken = {_key(path) for path in inputs}
    paths = []
    for picture, suffix in zip(inputs, suffixes, strict=True):
        parent = picture.resolve().parent.name
        stems = [picture.stem, f"{parent}_{picture.stem}"] if parent else [picture.stem]
        number = 1
        while True:
            stem = stems[number - 1] if number <= len(stems) else f"{stems[-1]}-{number}"
            path = folder / f"{stem}_predicted{suffix}"
            if _key(path) not in taken:
                break
            number += 1
        taken.add(_key(path))
        paths.append(path)
    return paths


def _key(path: Path) -> str:
    # Some file systems take "A.jpg" and "a.jpg" for the same file.
    return os.path.realpath(path).casefold()
