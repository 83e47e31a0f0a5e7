"""CelebA's label files in the CSV form of common mirrors."""

from __future__ import annotations

from trn_plugin.errors import DataError

__all__ = ["split_csv"]

_SEPARATORS_TO_BLANKS = bytes.maketrans(b',"', b"  ")
_IGNORED = b' \t\v\f\r"'


def split_csv(path: str, data: bytes) -> tuple[tuple[str, ...], bytes] | None:
    """Convert CSV to blank-separated rows.

    Args:
        path: the file, for messages.
        data: its content: ``image_id,Bald,...``, then rows ``000001.jpg,-1,...``.

    Returns:
        The column names without the first (none if the first line ends in a number and is a row),
        and the rows with blanks for commas and quotes, after an empty line for the header. None if
        the first line is not CSV: it has no comma, or no letter (202,599).

    Raises:
        DataError: an empty cell before another cell.
    """
    line = data[: data.find(b"\n") + 1 or len(data)]
    if b"," not in line or line.upper() == line.lower():
        return None
    _check_cells(path, data)
    cells = line.translate(_SEPARATORS_TO_BLANKS).decode("utf-8", "replace").split()
    rows = data.translate(_SEPARATORS_TO_BLANKS)
    if cells[-1].lstrip("-").isdigit():
        return (), rows
    return tuple(cells[1:]), b"\n" + rows[len(line) :]


def _check_cells(path: str, data: bytes) -> None:
    """Refuse empty cells, except commas that spreadsheets leave at the end of a line."""
    text = data.translate(None, _IGNORED)
    if b",," not in text and b"\n," not in text and not text.startswith(b","):
        return
    for number, line in enumerate(text.split(b"\n"), 1):
        cells = line.rstrip(b",").split(b",")
        if b"" in cells[:-1]:
            raise DataError(
                f"{path}:{number}: expected a value in each cell, found cell "
                f"{cells.index(b'') + 1} empty"
            )
