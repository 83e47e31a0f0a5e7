"""Predictions as plain values: one JSON object, or one row of a table, a face."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from trn_plugin.errors import ConfigError
from trn_plugin.tasks import Task

__all__ = ["Results", "as_json", "as_row", "columns", "naming"]

PLACE = ("image", "frame", "seconds", "x0", "y0", "x1", "y1")


def as_json(tasks: Mapping[str, Task], prediction: Mapping) -> dict:
    """A prediction of plain values: landmarks as name -> [x, y] in the picture's pixels."""
    return {name: task.as_json(prediction[name]) for name, task in tasks.items()}


def columns(tasks: Mapping[str, Task]) -> list[str]:
    """The table's header: where the face is, then each task.

    ``<task>.<point>.x`` and ``.y``; ``<task>`` for the most probable class and ``<task>.<class>``
    for each probability; ``<task>.<name>`` for attributes and values.
    """
    return [*PLACE, *(column for task in tasks.values() for column in task.columns())]


def as_row(tasks: Mapping[str, Task], record: Mapping) -> list:
    """A record of ``trn-plugin predict`` as the cells under :func:`columns`; None is empty."""
    box = record["box"] or [None] * 4
    row = [record["image"], record.get("frame"), record.get("seconds"), *box]
    return row + [cell for name, task in tasks.items() for cell in task.row(record["tasks"][name])]


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn an error of writing, such as a full disk, into one line that names the file.

    Raises:
        ConfigError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


class Results:
    """Writes records as JSON lines, and as a table if one is asked for, in a given order.

    While it is open they go to ``<name>.part``; :meth:`close` gives the files their names. So what
    an earlier run has found stays until this one has come to its end.

    Args:
        tasks: as of ``TaskPredictor``.
        jsonl: file of JSON lines.
        table: CSV file; None for none.

    Raises:
        ConfigError: if a file cannot be written; the message names its option of the tool.
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
                    with naming(f"{option} {path}"):
                        self._open(path)
            except ConfigError:
                self.close()
                raise
        self._table = csv.writer(self._files[1][0]) if table is not None else None
        if self._table:
            self._table.writerow(columns(tasks))

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = path.is_file() or not path.exists()  # not so: /dev/stdout
        part = path.with_name(f"{path.name}.part") if plain else path
        self._files.append((part.open("w", encoding="utf-8", newline=""), part, path))

    def write(self, record: dict | None, order: int | None = None) -> None:
        """Write a record once all of smaller ``order``, from 0 on, are written.

        Args:
            record: ``image``, ``frame`` and ``seconds`` of a video, ``box`` or None, ``tasks`` as
                of :func:`as_json`, and what else is to be in the JSON line; None where there is
                nothing to be written.
            order: each number once; default next.
        """
        self._waiting[self._next if order is None else order] = record
        while self._next in self._waiting:
            ready = self._waiting.pop(self._next)
            self._next += 1
            if ready is None:
                continue
            self.written += 1
            with naming(self._files[0][2]):
                self._files[0][0].write(json.dumps(ready) + "\n")
            if self._table:
                with naming(self._files[1][2]):
                    self._table.writerow(as_row(self.tasks, ready))

    def close(self, whole: bool = True) -> list[Path]:
        """Close the files and, if the run came to its end with a result, give them their names.

        Returns:
            The parts that are left, with what a run found that did not come to its end.
        """
        left = []
        files, self._files = self._files, []
        for file, part, path in files:
            with naming(path):
                file.close()
            if part == path:
                continue
            if self.written and whole:
                os.replace(part, path)
            elif self.written:
                left.append(part)
            else:
                part.unlink()
        return left
