"""Binary attributes, such as those of a face."""

from __future__ import annotations

import functools

import numpy as np

from trn_plugin.errors import DataError
from trn_plugin.tasks.base import Curve, Line, Task
from trn_plugin.tasks.cells import quoted
from trn_plugin.tasks.columns import LabelColumns, each_distinct
from trn_plugin.tasks.kinds import TASKS

__all__ = ["AttributeTask"]

YES_OR_NO = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}
LISTED = 6


class AttributeColumns(LabelColumns):
    """Columns of 0 and 1."""

    def read_all(self, cells, where) -> np.ndarray:
        """(N, A) float32 of 0 and 1."""
        values = [
            each_distinct(column, functools.partial(_yes_or_no, name), where)
            for name, column in zip(self.columns, cells, strict=True)
        ]
        return np.stack(values, axis=1).astype(np.float32)


def _yes_or_no(column: str, cell: str, where: str) -> float:
    value = YES_OR_NO.get(cell.lower())
    if value is None:
        raise DataError(f"{where}: expected {column} to be 0 or 1, found {quoted(cell)}")
    return value


@TASKS.register
class AttributeTask(Task):
    """Several attributes (A,), 0 or 1; the output is the probability of each."""

    kind = "attributes"
    columns_type = AttributeColumns
    meaning = "probability of each attribute, 0 to 1"
    apart = True

    @property
    def expected(self) -> str:
        return f"{len(self.names)} values 0 or 1"

    def valid(self, labels: np.ndarray) -> np.ndarray:
        return ((labels == 0) | (labels == 1)).all(1)

    def example(self, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(2, size=len(self.names)).astype(np.float32)

    def categories(self, label: np.ndarray) -> list[int]:
        return np.flatnonzero(np.asarray(label) > 0.5).tolist()

    def summary(self, prediction: dict) -> list[Line]:
        return [Line(f"{n} {p:.2f}") for n, p in prediction.items()]

    def longest_summary(self) -> list[str]:
        return [f"{name} 0.00" for name in self.names]

    def label_text(self, label: np.ndarray) -> str:
        """The attributes that are 1."""
        return ", ".join(self.names[index] for index in self.categories(label)) or "none"

    def likelihoods(self, label, output, spread) -> list[float]:
        return np.where(label > 0.5, output, 1 - output).tolist()

    def case_lines(self, label, output, box) -> list[Line]:
        labels = np.full(len(output), np.nan) if label is None else label
        if len(labels) > LISTED and np.isnan(labels).all():
            return [Line(f"{self.name}: no label")]
        lines = [self._line(*case) for case in zip(self.names, labels, output, strict=True)]
        if len(lines) <= LISTED:
            return lines
        wrong = [line for line in lines if line.right is False]
        right = sum(line.right is True for line in lines)
        return [Line(f"{self.name}: {right} of {right + len(wrong)} right"), *wrong]

    @staticmethod
    def _line(attribute: str, label: float, probability: float) -> Line:
        guess = bool(probability > 0.5)
        right = None if np.isnan(label) else guess == bool(label > 0.5)
        sure = 100 * (probability if guess else 1 - probability)
        text = f"{attribute}: {'yes' if guess else 'no'} ({sure:.0f} %)"
        if right is not True:
            text += ", no label" if right is None else f", true: {'yes' if label > 0.5 else 'no'}"
        return Line(text, right)

    def curve(self, labels, outputs, boxes) -> Curve:
        arguments = dict(truth=labels, probabilities=outputs, names=self.names)
        return Curve("precision_recall", arguments)
