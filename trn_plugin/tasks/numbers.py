"""Tasks of unknown kind in an exported file."""

from __future__ import annotations

import math

from trn_plugin.tasks.base import Line, Task, numbered

__all__ = ["NumbersTask"]


class NumbersTask(Task):
    """A task of an exported file whose kind is not imported; its outputs are named numbers.

    Args:
        name: name of the task.
        info: its description in the file; unless it has one name per number, the names are "0",
            "1", ...
        shape: shape of the output for one picture.
    """

    difference_unit = "of the largest"
    output_shape: tuple[int, ...] = ()

    def __init__(self, name: str, info: dict, shape: tuple[int, ...]) -> None:
        count = math.prod(shape)
        names = info.get("names") if isinstance(info, dict) else None
        fitting = isinstance(names, (list, tuple)) and len(names) == count
        super().__init__(name, {**info, "names": names if fitting else numbered(name, count)})
        self.output_shape = tuple(shape)

    def exported(self) -> dict:
        return {key: value for key, value in self.info.items() if key != "names"}

    def read(self, output, corner) -> dict:
        return super().read(output.reshape(-1), corner)

    def summary(self, prediction: dict) -> list[Line]:
        values = zip(self.columns(), prediction.values(), strict=True)
        return [Line(f"{column}: {value:.4g}") for column, value in values]

    def longest_summary(self) -> list[str]:
        return [f"{column}: -0.0000e+00" for column in self.columns()]
