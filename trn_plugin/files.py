"""Write files atomically, with one-line errors; locate text that is not UTF-8."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from trn_plugin.errors import ConfigError, TrnPluginError

__all__ = ["atomic_write", "line_not_in_utf8", "write_json", "write_table"]


@contextmanager
def atomic_write(
    path: str | os.PathLike,
    option: str = "",
    error: type[TrnPluginError] = ConfigError,
    lasting: bool = False,
) -> Iterator[Path]:
    """Yield a temporary path. It is renamed to ``path`` at the end, or removed after an error.

    Args:
        path: the file; its folder is created.
        option: its name in messages, such as ``--out``.
        error: the error to raise if the file cannot be written.
        lasting: fsync, and remove temporary files that killed processes left.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial") if lasting else ():
            left.unlink()
        try:
            yield partial
            if lasting:
                _sync(partial)
            os.replace(partial, path)
            if lasting and os.name == "posix":
                _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as caught:
        name = f"{option} {path}".strip()
        raise error(f"{name}: cannot be written: {caught.strerror or caught}") from caught


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike, record, option: str = "--out") -> None:
    """Write plain values as indented JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    with atomic_write(path, option) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def write_table(
    path: str | os.PathLike, rows: Sequence[Mapping], append: bool = False, option: str = "--out"
) -> None:
    """Write rows as a CSV file with a header.

    Args:
        path: the file; its folder is created.
        rows: values by column; missing columns and None give empty cells.
        append: keep the rows of an existing file, which must have the same columns.
        option: name of the path in messages.

    Raises:
        ConfigError: the file cannot be written, or has other columns.
    """
    path = Path(path)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    before = ""
    if append and path.is_file():
        before = _existing_table(path, columns, option)
    with atomic_write(path, option) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(before)
        table = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        if not before:
            table.writeheader()
        table.writerows(rows)


def line_not_in_utf8(path: str) -> int:
    """Number, from 1, of the first line that is not valid UTF-8; 0 if there is none."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError:
                return number
    return 0


def _existing_table(path: Path, columns: list[str], option: str) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        found = next(csv.reader(text.splitlines()), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option} {path}: cannot be written: {reason}") from error
    if text and found != columns:
        raise ConfigError(
            f"{option} {path}: expected a table with the columns {','.join(columns)}, "
            f"found {','.join(found)[:200]}; name another file"
        )
    return text
