"""CelebA's label files as CSV, as a usual mirror has them."""

from __future__ import annotations

__all__ = ["split_csv"]

_AS_BLANKS = bytes.maketrans(b',"', b"  ")


def split_csv(data: bytes) -> tuple[tuple[str, ...], bytes] | None:
    """The header and the rows of a CSV file.

    Args:
        data: the file, ``image_id,Bald,...`` and rows ``000001.jpg,-1,...``.

    Returns:
        The columns' names but the first, none if a first line that ends in a number is a row; and
        the lines with blanks in the place of commas and quotes, an empty one in that of the
        header. None if the first line is no line of CSV: it has no comma, or no letter, as 202,599.
    """
    line = data[: data.find(b"\n") + 1 or len(data)]
    if b"," not in line or line.upper() == line.lower():
        return None
    cells = line.translate(_AS_BLANKS).decode("utf-8", "replace").split()
    rows = data.translate(_AS_BLANKS)
    if cells[-1].lstrip("-").isdigit():
        return (), rows
    return tuple(cells[1:]), b"\n" + rows[len(line) :]
