"""CelebA's label files as CSV, as a usual mirror has them."""

from __future__ import annotations

from trn_plugin.errors import DataError

__all__ = ["split_csv"]

_AS_BLANKS = bytes.maketrans(b',"', b"  ")
_UNSEEN = b' \t\v\f\r"'


def split_csv(path: str, data: bytes) -> tuple[tuple[str, ...], bytes] | None:
    """The header and the rows of a CSV file.

    Args:
        path: of the file, for messages.
        data: the file, ``image_id,Bald,...`` and rows ``000001.jpg,-1,...``.

    Returns:
        The columns' names but the first, none if a first line that ends in a number is a row; and
        the lines with blanks in the place of commas and quotes, an empty one in that of the
        header. None if the first line is no line of CSV: it has no comma, or no letter, as 202,599.

    Raises:
        DataError: an empty cell before another one, which blanks would not show.
    """
    line = data[: data.find(b"\n") + 1 or len(data)]
    if b"," not in line or line.upper() == line.lower():
        return None
    _check_cells(path, data)
    cells = line.translate(_AS_BLANKS).decode("utf-8", "replace").split()
    rows = data.translate(_AS_BLANKS)
    if cells[-1].lstrip("-").isdigit():
        return (), rows
    return tuple(cells[1:]), b"\n" + rows[len(line) :]


def _check_cells(path: str, data: bytes) -> None:
    """Refuse an empty cell; commas at the end of a line, as spreadsheets leave them, are none."""
    text = data.translate(None, _UNSEEN)
    if b",," not in text and b"\n," not in text and not text.startswith(b","):
        return
    for number, line in enumerate(text.split(b"\n"), 1):
        cells = line.rstrip(b",").split(b",")
        if b"" in cells[:-1]:
            raise DataError(
                f"{path}:{number}: expected a value in each cell, found cell "
                f"{cells.index(b'') + 1} empty"
            )
