"""Which columns of a CSV file hold which task's label, as a config says it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from trn_plugin.datasets._cells import coordinate, listing, number, quoted
from trn_plugin.errors import ConfigError, DataError

__all__ = [
    "AttributeColumns",
    "ClassColumn",
    "LabelColumns",
    "PointColumns",
    "ValueColumns",
    "absent_column",
    "are_names",
    "is_missing",
    "label_columns",
]

YES_OR_NO = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}
LARGEST_VALUE = 1e30


def is_missing(cell: str) -> bool:
    """Whether a cell holds no label: it is empty, or "nan" as some programs write it."""
    return not cell or cell.lower() == "nan"


class LabelColumns:
    """A task's columns: how its label is read from their cells.

    Attributes:
        columns (tuple[str, ...]): their names, in order.
        info (dict): the task as ``METAINFO['tasks']`` of a data set describes it.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    info: dict

    def read(self, cells: Sequence[str], where: str) -> np.ndarray | int:
        """The label of a row in which none of the cells is missing.

        Raises:
            DataError: naming ``where``, the column, what was expected and what was found.
        """
        raise NotImplementedError


class PointColumns(LabelColumns):
    """Landmarks: two columns of pixels for each point."""

    keys = ("points", "flip_pairs", "interocular")

    def __init__(
        self,
        task: str,
        points: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        flip_pairs: Sequence[Sequence[str]] | None = None,
        interocular: Sequence[str] | None = None,
    ) -> None:
        key = f"labels.{task}"
        if isinstance(points, Mapping):
            _names(f"{key}.points", list(points))
            for name, pair in points.items():
                if not are_names(pair, 2):
                    raise ConfigError(
                        f"{key}.points.{name}: expected the columns of x and y, found {pair!r}"
                    )
            self.columns = tuple(column for pair in points.values() for column in pair)
        else:
            points = _names(f"{key}.points", points)
            self.columns = tuple(f"{name}_{axis}" for name in points for axis in "xy")
        names = tuple(points)
        self.info = dict(kind="landmarks", names=names)
        if flip_pairs is not None:
            self.info["flip"] = _flip(f"{key}.flip_pairs", flip_pairs, names)
        if interocular is not None:
            self.info["interocular"] = _two_of(f"{key}.interocular", interocular, names)

    def read(self, cells: Sequence[str], where: str) -> np.ndarray:
        """(P, 2), in pixels."""
        values = [
            coordinate(cell, f"{column} in pixels", where)
            for cell, column in zip(cells, self.columns, strict=True)
        ]
        return np.array(values).reshape(-1, 2)


class ClassColumn(LabelColumns):
    """One of several classes: a column of their names or numbers."""

    keys = ("column", "classes", "flip_pairs")

    def __init__(
        self,
        task: str,
        classes: Sequence | Mapping | None = None,
        column: str | None = None,
        flip_pairs: Sequence[Sequence[str]] | None = None,
    ) -> None:
        key = f"labels.{task}"
        if not isinstance(column, (str, type(None))):
            raise ConfigError(f"{key}.column: expected the name of a column, found {column!r}")
        self.columns = (column or task,)
        if isinstance(classes, Mapping):
            cells, names = [str(cell) for cell in classes], [str(name) for name in classes.values()]
        elif isinstance(classes, (list, tuple)):
            cells = names = [str(name) for name in classes]
        else:
            cells = names = []
        if min(len(set(cells)), len(set(names))) < max(len(cells), 2):
            raise ConfigError(
                f"{key}.classes: expected what the cells of {self.columns[0]!r} hold, in order, "
                f"each once, such as ['left', 'right'], found {classes!r}"
            )
        self.cells = {cell: index for index, cell in enumerate(cells)}
        self.info = dict(kind="class", classes=tuple(names))
        if flip_pairs is not None:
            self.info["flip"] = _flip(f"{key}.flip_pairs", flip_pairs, names)

    def read(self, cells: Sequence[str], where: str) -> int:
        """The index of the class."""
        (cell,) = cells
        # with empty cells in a column, spreadsheets and pandas make 3 a 3.0
        index = self.cells.get(cell, self.cells.get(cell.removesuffix(".0")))
        if index is None:
            raise DataError(
                f"{where}: expected {self.columns[0]} to be one of {listing(self.cells)}, "
                f"found {quoted(cell)}"
            )
        return index


class _NumberColumns(LabelColumns):
    """Columns of numbers by name; by default one with the task's own."""

    keys = ("columns",)
    kind: str

    def __init__(self, task: str, columns: Sequence[str] | None = None) -> None:
        self.columns = _names(f"labels.{task}.columns", [task] if columns is None else columns)
        self.info = dict(kind=self.kind, names=self.columns)


class AttributeColumns(_NumberColumns):
    """Yes-or-no questions: columns of 0 and 1."""

    kind = "attributes"

    def read(self, cells: Sequence[str], where: str) -> np.ndarray:
        """(A,) of 0 and 1."""
        values = [YES_OR_NO.get(cell.lower()) for cell in cells]
        for cell, value, column in zip(cells, values, self.columns, strict=True):
            if value is None:
                raise DataError(f"{where}: expected {column} to be 0 or 1, found {quoted(cell)}")
        return np.array(values, dtype=np.float32)


class ValueColumns(_NumberColumns):
    """Quantities: columns of numbers, each in its own unit."""

    kind = "values"

    def read(self, cells: Sequence[str], where: str) -> np.ndarray:
        """(V,), as in the file."""
        values = []
        for cell, column in zip(cells, self.columns, strict=True):
            value = number(cell, f"{column} to be a number", where)
            if abs(value) > LARGEST_VALUE:
                raise DataError(
                    f"{where}: expected {column} within {LARGEST_VALUE:g}, found {quoted(cell)}"
                )
            values.append(value)
        return np.array(values, dtype=np.float32)


KINDS: dict[str, type[LabelColumns]] = {
    "landmarks": PointColumns,
    "class": ClassColumn,
    "attributes": AttributeColumns,
    "values": ValueColumns,
}


def label_columns(labels: Mapping[str, Mapping]) -> dict[str, LabelColumns]:
    """The columns of every task.

    Args:
        labels: by task, as `TabularMultiTask` describes it.

    Raises:
        ConfigError: naming the task and the key that cannot be used.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise ConfigError(
            "labels: expected for each task the columns of its label, such as "
            f"dict(smile=dict(kind='attributes', columns=['smiling'])), found {labels!r}"
        )
    found = {}
    for task, label in labels.items():
        if not isinstance(task, str) or not isinstance(label, Mapping):
            raise ConfigError(
                f"labels.{task}: expected a dict such as dict(kind='values') under the task's "
                f"name, found {label!r} under {task!r}"
            )
        options = dict(label)
        kind = options.pop("kind", None)
        if not isinstance(kind, str) or kind not in KINDS:
            raise ConfigError(
                f"labels.{task}.kind: expected one of {', '.join(KINDS)}, found {kind!r}"
            )
        for key in options:
            if key not in KINDS[kind].keys:
                raise ConfigError(
                    f"labels.{task}: a label of kind {kind!r} takes "
                    f"{', '.join(KINDS[kind].keys)}; found {key!r}"
                )
        found[task] = KINDS[kind](task, **options)
    return found


def absent_column(name: str, header: Sequence[str]) -> str:
    """What to say of a column that a file has not."""
    close = difflib.get_close_matches(name, header, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {listing(header)}"
    return f"has no column {quoted(name)}; {hint}"


def are_names(names: object, count: int | None = None) -> bool:
    """Whether this is a list of texts, each once, and of so many."""
    listed = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return listed and len(set(names)) == len(names) == (len(names) if count is None else count)


def _names(key: str, names: Sequence[str] | None) -> tuple[str, ...]:
    if not are_names(names) or not names:
        raise ConfigError(f"{key}: expected a list of names, each once, found {names!r}")
    return tuple(names)


def _two_of(key: str, pair: Sequence[str], names: Sequence[str]) -> tuple[int, int]:
    """The indices of two different names."""
    if not are_names(pair, 2):
        raise ConfigError(f"{key}: expected two names out of {list(names)}, found {pair!r}")
    for name in pair:
        if name not in names:
            raise ConfigError(f"{key}: expected two names out of {list(names)}, found {name!r}")
    return names.index(pair[0]), names.index(pair[1])


def _flip(key: str, pairs: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[int, ...]:
    """What each becomes in a mirror: itself, or the other of its pair."""
    if not isinstance(pairs, (list, tuple)):
        raise ConfigError(f"{key}: expected a list of pairs of names, found {pairs!r}")
    flip, paired = list(range(len(names))), []
    for index, pair in enumerate(pairs):
        a, b = _two_of(f"{key}[{index}]", pair, names)
        flip[a], flip[b] = b, a
        paired += [a, b]
    if len(set(paired)) < len(paired):
        raise ConfigError(f"{key}: a name is in two pairs in {[list(pair) for pair in pairs]}")
    return tuple(flip)
