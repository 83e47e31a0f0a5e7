"""A kind of task that the package does not have: ordered levels, such as age groups."""

import numpy as np

from trn_plugin.errors import DataError
from trn_plugin.tasks import TASKS, Curve, LabelColumns, Line, Task
from trn_plugin.tasks.columns import check_names


class LevelColumn(LabelColumns):
    """One column of whole numbers, 0 for the first level."""

    keys = ("column", "levels")

    def __init__(self, kind, task, levels=None, column=None):
        self.columns = (column or task,)
        self.info = dict(kind=kind, levels=check_names(f"labels.{task}.levels", levels))

    def read(self, cells, where):
        (value,) = super().read(cells, where)
        if value not in range(len(self.info["levels"])):
            count = len(self.info["levels"])
            raise DataError(f"{where}: expected a level 0..{count - 1}, found {cells[0]!r}")
        return int(value)


@TASKS.register
class OrdinalTask(Task):
    """A level 0..L-1; its target (L-1,) is 1 for levels 1 to the label, else 0.

    The output (L-1,) is the probability of each 1.
    """

    kind = "ordinal"
    names_key = noun = "levels"
    dtype = np.int64
    columns_type = LevelColumn
    label_shape = ()

    @property
    def expected(self):
        return f"one level 0..{len(self.names) - 1}"

    @property
    def width(self):
        return len(self.names) - 1

    @property
    def output_shape(self):
        return (self.width,)

    def valid(self, labels):
        return (labels >= 0) & (labels < len(self.names)) & (labels == np.floor(labels))

    def encode(self, labels):
        return (labels[:, None] > np.arange(self.width)).astype(np.float32)

    def decode(self, targets):
        return targets.sum(1).astype(self.dtype)

    def example(self, rng):
        return int(rng.integers(len(self.names)))

    def read(self, output, corner):
        level = int((output > 0.5).sum())
        return {"level": self.names[level], "reached": [float(value) for value in output]}

    def columns(self):
        return [self.name, *(f"{self.name}>={name}" for name in self.names[1:])]

    def row(self, record):
        return [record["level"], *record["reached"]]

    def summary(self, prediction):
        return [Line(f"{self.name}: {prediction['level']}")]

    def longest_summary(self):
        return [f"{self.name}: {name}" for name in self.names]

    def likelihoods(self, label, output, spread):
        return np.where(self.encode(np.array([label]))[0] > 0.5, output, 1 - output).tolist()

    def case_lines(self, label, output, box):
        level = int((output > 0.5).sum())
        right = None if label is None else level == int(label)
        return [Line(f"{self.name}: {self.names[level]}", right)]

    def curve(self, labels, outputs, boxes):
        matrix = np.zeros((len(self.names), len(self.names)), dtype=np.int64)
        np.add.at(matrix, (labels, (outputs > 0.5).sum(1)), 1)
        return Curve("confusion", dict(matrix=matrix, classes=self.names))
