"""One of several classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trn_plugin.errors import ConfigError, DataError
from trn_plugin.tasks.base import Curve, Line, Task
from trn_plugin.tasks.cells import listing, quoted
from trn_plugin.tasks.columns import LabelColumns, flip_of
from trn_plugin.tasks.kinds import TASKS

__all__ = ["ClassTask"]


class ClassColumn(LabelColumns):
    """A column of class names or numbers."""

    keys = ("column", "classes", "flip_pairs")

    def __init__(
        self,
        kind: str,
        task: str,
        classes: Sequence | Mapping | None = None,
        column: str | None = None,
        flip_pairs: Sequence[Sequence[str]] | None = None,
    ) -> None:
        key = f"labels.{task}"
        if not isinstance(column, (str, type(None))):
            raise ConfigError(f"{key}.column: expected the name of a column, found {column!r}")
        self.columns = (column or task,)
        given = classes if isinstance(classes, (Mapping, list, tuple)) else ()
        cells = [str(cell) for cell in given]
        names = [str(name) for name in given.values()] if isinstance(given, Mapping) else cells
        if min(len(set(cells)), len(set(names))) < max(len(cells), 2):
            raise ConfigError(
                f"{key}.classes: expected the values of column {self.columns[0]!r}, "
                f"in order, each once, such as ['left', 'right'], found {classes!r}"
            )
        self.index_of = {cell: index for index, cell in enumerate(cells)}
        self.info = dict(kind=kind, classes=tuple(names))
        if flip_pairs is not None:
            self.info["flip"] = flip_of(f"{key}.flip_pairs", flip_pairs, names)

    def read(self, cells: Sequence[str], where: str) -> int:
        """The index of the class."""
        (cell,) = cells
        # spreadsheets and pandas write 3 as 3.0 in a column with empty cells
        index = self.index_of.get(cell, self.index_of.get(cell.removesuffix(".0")))
        if index is None:
            raise DataError(
                f"{where}: expected {self.columns[0]} to be one of {listing(self.index_of)}, "
                f"found {quoted(cell)}"
            )
        return index


@TASKS.register
class ClassTask(Task):
    """A class index; its target is one-hot, its output the probability of each class."""

    kind = "class"
    names_key = noun = "classes"
    dtype = np.int64
    columns_type = ClassColumn
    meaning = "probability of each class, 0 to 1; they sum to 1"
    label_shape = ()

    @property
    def expected(self) -> str:
        return f"one class index 0..{len(self.names) - 1}"

    def valid(self, labels: np.ndarray) -> np.ndarray:
        return (labels >= 0) & (labels < len(self.names)) & (labels == np.floor(labels))

    def encode(self, labels: np.ndarray) -> np.ndarray:
        return np.eye(len(self.names), dtype=np.float32)[labels.astype(np.int64)]

    def decode(self, targets: np.ndarray) -> np.ndarray:
        return targets.argmax(1)

    def example(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.names)))

    def categories(self, label: int) -> list[int]:
        return [int(label)]

    def mirrored(self, label: int) -> int:
        return self.info["flip"][label] if "flip" in self.info else label

    def read(self, output: np.ndarray, corner: tuple[int, int]) -> dict:
        """``label``, ``index``, and ``probabilities`` in the order of the classes."""
        index = int(output.argmax())
        probabilities = [float(value) for value in output]
        return {"label": self.names[index], "index": index, "probabilities": probabilities}

    def as_json(self, prediction: dict) -> dict:
        probabilities = dict(zip(self.names, prediction["probabilities"], strict=True))
        return {**prediction, "probabilities": probabilities}

    def columns(self) -> list[str]:
        return [self.name, *super().columns()]

    def row(self, record: dict) -> list:
        return [record["label"], *record["probabilities"].values()]

    def summary(self, prediction: dict) -> list[Line]:
        probability = prediction["probabilities"][prediction["index"]]
        return [Line(f"{self.name}: {prediction['label']} {probability:.2f}")]

    def longest_summary(self) -> list[str]:
        return [f"{self.name}: {label} 0.00" for label in self.names]

    def label_text(self, label: int) -> str:
        return self.names[int(label)]

    def likelihoods(self, label, output, spread) -> list[float]:
        return [float(output[int(label)])]

    def case_lines(self, label, output, box) -> list[Line]:
        guess = int(output.argmax())
        text = f"{self.name}: {self.names[guess]} ({100 * output[guess]:.0f} %)"
        if label is None:
            return [Line(f"{text}, no label")]
        if int(label) == guess:
            return [Line(text, True)]
        return [Line(f"{text}, true: {self.names[int(label)]}", False)]

    def curve(self, labels, outputs, boxes) -> Curve:
        matrix = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        np.add.at(matrix, (labels.astype(np.int64), outputs.argmax(1)), 1)
        return Curve("confusion", dict(matrix=matrix, classes=self.names))
