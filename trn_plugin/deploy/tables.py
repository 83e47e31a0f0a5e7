"""Tables of measurements that tools write."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from trn_plugin.errors import ConfigError

__all__ = ["write_table"]


def write_table(
    path: str | os.PathLike, rows: Sequence[Mapping], append: bool = False, option: str = "--out"
) -> None:
    """Write rows as a CSV file with a header; a column that a row lacks is empty in it.

    Args:
        path: the file; its folder is made.
        rows: values by column.
        append: to a file that is there, if its columns are these.
        option: what messages call the path.

    Raises:
        ConfigError: the file cannot be written, or has other columns.
    """
    path = Path(path)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = append and path.exists() and path.stat().st_size > 0
        if there:
            with path.open(newline="", encoding="utf-8") as file:
                found = next(csv.reader(file), [])
            if found != columns:
                raise ConfigError(
                    f"{option} {path}: expected a table with the columns {','.join(columns)}, "
                    f"found {','.join(found)[:200]}; name another file"
                )
        with path.open("a" if there else "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            if not there:
                table.writeheader()
            table.writerows(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option} {path}: cannot be written: {reason}") from error
