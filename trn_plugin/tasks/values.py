"""Quantities, such as age or weight."""

from __future__ import annotations

import numpy as np

from trn_plugin.tasks.base import Curve, Line, Task
from trn_plugin.tasks.columns import LabelColumns, column_numbers
from trn_plugin.tasks.kinds import TASKS

__all__ = ["ValueTask"]

LARGEST_VALUE = 1e30


class ValueColumns(LabelColumns):
    """Columns of quantities, each in its own unit."""

    def read_all(self, cells, where) -> np.ndarray:
        """(N, V) values as in the file."""
        values = [
            column_numbers(column, f"{name} to be a number", where, LARGEST_VALUE)
            for name, column in zip(self.columns, cells, strict=True)
        ]
        return np.stack(values, axis=1)


@TASKS.register
class ValueTask(Task):
    """Quantities (V,), each in its own unit.

    Labels are float64 until a head standardises them: float32 numbers near 1e12 are 65,536 apart.
    """

    kind = "values"
    dtype = np.float64
    columns_type = ValueColumns
    meaning = "each value in the unit of its labels"
    apart = True
    difference_unit = "of the labels' standard deviation"

    @property
    def expected(self) -> str:
        return f"{len(self.names)} finite numbers"

    def summary(self, prediction: dict) -> list[Line]:
        return [Line(f"{name}: {value:.4g}") for name, value in prediction.items()]

    def longest_summary(self) -> list[str]:
        return [f"{name}: -0.0000e+00" for name in self.names]

    def difference_scale(self, width: int, height: int, spread):
        return spread

    def likelihoods(self, label, output, spread) -> list[float]:
        """Likelihoods of a Laplace distribution of errors."""
        return np.exp(-np.abs(output - label) / np.maximum(spread, 1e-12)).tolist()

    def case_lines(self, label, output, box) -> list[Line]:
        lines = []
        for index, name in enumerate(self.names):
            true = "no label" if label is None else f"true: {label[index]:.4g}"
            lines.append(Line(f"{name}: {output[index]:.4g}, {true}"))
        return lines

    def curve(self, labels, outputs, boxes) -> Curve:
        return Curve("values", dict(truth=labels, predicted=outputs, names=self.names))
