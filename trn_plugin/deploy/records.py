"""Write predictions as JSON lines and as a CSV table."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from trn_plugin.errors import ConfigError
from trn_plugin.tasks import Task

__all__ = ["Results", "as_json", "write_errors"]

LOCATION = ("image", "frame", "seconds", "x0", "y0", "x1", "y1")
"""First columns of the table; those of each task follow, see `Task.columns`."""


def as_json(tasks: Mapping[str, Task], prediction: Mapping) -> dict:
    """A prediction as plain values; landmarks as name -> [x, y] in the picture's pixels."""
    return {name: task.as_json(prediction[name]) for name, task in tasks.items()}


@contextlib.contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Re-raise write errors, such as a full disk, as ConfigError with the file's name.

    Raises:
        ConfigError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


class Results:
    """Writes records in a given order, as JSON lines and optionally as a CSV table.

    Records go to ``<name>.part``; :meth:`close` renames the files, so that results of an earlier
    run stay until this one is complete.

    Args:
        tasks: tasks of a ``TaskPredictor``.
        jsonl: file of JSON lines.
        table: CSV file, or None.

    Raises:
        ConfigError: a file cannot be written; the message names its command-line option.
    """

    def __init__(self, tasks: Mapping[str, Task], jsonl: Path, table: Path | None = None):
        self.tasks = tasks
        self.written = 0
        self._next = 0
        self._waiting: dict[int, dict | None] = {}
        self._files = []
        for option, path in (("--jsonl", jsonl), ("--csv", table)):
            try:
                if path is not None:
                    with write_errors(f"{option} {path}"):
                        self._open(path)
            except ConfigError:
                self.close(complete=False)
                raise
        self._table = csv.writer(self._files[1][0]) if table is not None else None
        if self._table:
            self._table.writerow(sum((task.columns() for task in tasks.values()), [*LOCATION]))

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        regular = path.is_file() or not path.exists()  # unlike /dev/stdout
        part = path.with_name(f"{path.name}.part") if regular else path
        self._files.append((part.open("w", encoding="utf-8", newline=""), part, path))

    def write(self, record: dict | None, order: int | None = None) -> None:
        """Write a record as soon as all records of smaller ``order``, from 0 on, are written.

        Args:
            record: ``image``, ``frame`` and ``seconds`` of a video, ``box`` or None, ``tasks`` from
                :func:`as_json`, and further entries of the JSON line; None writes nothing.
            order: position, each used once; default next.
        """
        self._waiting[self._next if order is None else order] = record
        while self._next in self._waiting:
            ready = self._waiting.pop(self._next)
            self._next += 1
            if ready is None:
                continue
            self.written += 1
            with write_errors(self._files[0][2]):
                self._files[0][0].write(json.dumps(ready) + "\n")
            if self._table:
                with write_errors(self._files[1][2]):
                    self._table.writerow(self._row(ready))

    def _row(self, record: Mapping) -> list:
        box = record["box"] or [None] * 4
        row = [record["image"], record.get("frame"), record.get("seconds"), *box]
        return sum((task.row(record["tasks"][name]) for name, task in self.tasks.items()), row)

    def close(self, complete: bool = True) -> list[Path]:
        """Close the files, and rename them if the run is complete, even without results.

        Args:
            complete: whether the run has processed all its inputs.

        Returns:
            The ``.part`` files that an incomplete run leaves.
        """
        left = []
        files, self._files = self._files, []
        for file, part, path in files:
            with write_errors(path):
                file.close()
            if part == path:
                continue
            if complete:
                os.replace(part, path)
            elif self.written:
                left.append(part)
            else:
                part.unlink()
        return left
