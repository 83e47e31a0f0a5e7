"""The base class of all kinds of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trn_plugin.errors import ConfigError, DataError
from trn_plugin.tasks.columns import LabelColumns

__all__ = ["Curve", "Line", "Task", "numbered"]


class Line(NamedTuple):
    """A line of text about a prediction, and whether it is right; None if unknown."""

    text: str
    right: bool | None = None


class Curve(NamedTuple):
    """A plot of a test set.

    Attributes:
        plot (str | Callable): a function ``plot(path, title=..., **arguments)``, or the name of
            ``save_<plot>`` in ``trn_plugin.evaluation.plots``.
        name (str): of the file; default ``plot``.
    """

    plot: str | Callable
    arguments: Mapping[str, Any]
    name: str = ""


class Task:
    """One task of a data set, a head or an exported file.

    A label comes from the data set; the loss sees a target (width,); a head gives an output of
    :attr:`output_shape`; a prediction is an output in the form that users read.

    Args:
        name: of the task.
        info: as in ``METAINFO['tasks']`` of a data set. The entry ``names_key`` holds the names of
            the points, classes, attributes or values. The optional entry ``flip`` holds for each
            the index of its mirror image.

    Attributes:
        info (dict): ``info`` with the entry ``kind``.

    Raises:
        ConfigError: the names are not a list, or the flip is not its own inverse.
    """

    kind: ClassVar[str] = ""
    names_key: ClassVar[str] = "names"
    noun: ClassVar[str] = "names"
    """What messages call the names."""
    dtype: ClassVar[type] = np.float32
    """NumPy type of a label."""
    columns_type: ClassVar[type[LabelColumns]] = LabelColumns
    """Reads the label from the columns of a CSV file."""
    meaning: ClassVar[str] = "one number for each name"
    """The description of the output in an exported file."""
    difference_unit: ClassVar[str] = "in probability"
    """Unit in which differences between two outputs are printed."""
    apart: ClassVar[bool] = False
    """Whether ``--by-column`` relates the target columns one by one."""

    def __init__(self, name: str, info: Mapping) -> None:
        names = info.get(self.names_key)
        if not isinstance(names, (list, tuple)) or not names:
            raise ConfigError(
                f"task {name}: expected {self.names_key}, a list of {self.noun}, found {names!r}"
            )
        self.name = name
        self.names = tuple(map(str, names))
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"task {name}: expected each name once, found {list(names)}")
        flip, indices = info.get("flip"), range(len(self.names))
        if flip is not None and not (
            sorted(flip) == [*indices] and all(flip[flip[i]] == i for i in indices)
        ):
            raise ConfigError(
                f"task {name}: expected flip, for each of the {len(self.names)} {self.noun} the "
                f"index of its mirror image, found {flip!r}"
            )
        self.info = {"kind": self.kind, **info}

    def exported(self) -> dict:
        """The task's entry in an exported file's metadata."""
        return {"kind": self.kind, self.names_key: list(self.names)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.noun}={list(self.names)})"

    # Shapes

    @property
    def width(self) -> int:
        """Numbers in a target."""
        return len(self.names)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of a label; axes of size 1 may be left out or added."""
        return (len(self.names),)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of a head's output for one picture."""
        return (len(self.names),)

    # Labels and targets

    expected: ClassVar[str] = "finite numbers"

    def valid(self, labels: np.ndarray) -> np.ndarray:
        """(N,) bool: which labels (N, *label_shape) are valid."""
        return np.isfinite(labels.reshape(len(labels), -1)).all(1)

    def check(self, labels: Sequence) -> np.ndarray:
        """N labels as one array (N, *label_shape).

        Raises:
            DataError: a label of another shape, or an invalid one.
        """
        rows = [np.asarray(label) for label in labels]
        sizes = [size for size in self.label_shape if size != 1]
        for row in rows:
            if [size for size in row.shape if size != 1] != sizes:
                raise self._misfit(row)
        shape = (len(rows), *self.label_shape)
        stacked = np.stack(rows).reshape(shape) if rows else np.zeros(shape, self.dtype)
        valid = self.valid(stacked)
        if not valid.all():
            raise self._misfit(rows[int(np.argmin(valid))])
        return stacked

    @property
    def target_dtype(self) -> type:
        """Type of targets: float64 if labels are, else float32."""
        return np.float64 if self.dtype is np.float64 else np.float32

    def targets(self, labels: Sequence, dtype: type | None = None) -> np.ndarray:
        """Check N labels and encode them as loss targets (N, width); default `target_dtype`.

        The task similarity of labels is that of their targets.
        """
        return self.encode(self.check(labels)).astype(dtype or self.target_dtype, copy=False)

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Targets (N, width) of valid labels (N, *label_shape)."""
        return labels.reshape(len(labels), -1)

    def decode(self, targets: np.ndarray) -> np.ndarray:
        """Labels (N, *label_shape) of targets (N, width), of :attr:`dtype`."""
        return targets.reshape(len(targets), *self.label_shape).astype(self.dtype, copy=False)

    def example(self, rng: np.random.Generator) -> Any:
        """A random label."""
        return rng.random(self.label_shape).astype(self.dtype)

    def categories(self, label: Any) -> list[int]:
        """Indices of the names that a label has, such as its class or its attributes."""
        return []

    def parts(self, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Target columns (N, 1) by ``task/name``, for similarities of single columns."""
        if not self.apart or len(self.names) < 2:
            return {}
        columns = np.ascontiguousarray(targets.T)
        return {
            f"{self.name}/{name}": column[:, None]
            for name, column in zip(self.names, columns, strict=True)
        }

    def _misfit(self, label: np.ndarray) -> DataError:
        found = f"shape {label.shape}" if label.size > 1 else f"{label.tolist()}"
        return DataError(f"{self.name}: expected a label of {self.expected}, found {found}")

    # Geometry

    def mirrored(self, label: Any) -> Any:
        """The label of the mirrored crop; a ConfigError if ``flip`` is needed and missing."""
        return label

    def points(self, label: Any) -> np.ndarray:
        """The points (P, 2) of a label, an output or a prediction."""
        return np.zeros((0, 2))

    @property
    def has_points(self) -> bool:
        """Whether labels have points."""
        return len(self.points(self.example(np.random.default_rng(0)))) > 0

    def with_points(self, label: Any, points: np.ndarray) -> Any:
        """The label with its points replaced by these (P, 2)."""
        return label

    def mapped(self, label: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
        """The label with ``change`` (which keeps NaN) applied to its points (P, 2)."""
        points = self.points(label)
        return self.with_points(label, change(points)) if len(points) else label

    def all_points(self, labels: np.ndarray) -> np.ndarray:
        """The points (N, P, 2) of N labels, NaN for a missing one; override for speed."""
        if not self.has_points or not len(labels):
            return np.zeros((len(labels), 0, 2))
        return np.stack([self.points(label) for label in labels])

    # Predictions as a user reads them

    def read(self, output: np.ndarray, corner: tuple[int, int]) -> Any:
        """A prediction from an exported file's output for a crop at ``corner`` (x, y)."""
        return {name: float(v) for name, v in zip(self.names, output, strict=True)}

    def as_json(self, prediction: Any) -> Any:
        """A prediction in types of JSON."""
        return prediction

    def columns(self) -> list[str]:
        """Names of its columns in a table."""
        return [f"{self.name}.{name}" for name in self.names]

    def row(self, record: Any) -> list:
        """The CSV cells of a record from :meth:`as_json`, in the order of :meth:`columns`."""
        return list(record.values())

    def summary(self, prediction: Any) -> list[Line]:
        """Short lines to stand beside a picture."""
        return []

    def longest_summary(self) -> list[str]:
        """The longest texts that :meth:`summary` can return."""
        return []

    def label_text(self, label: Any) -> str:
        """A label in a few words."""
        values = np.asarray(label).reshape(-1).tolist()
        if len(values) != len(self.names):
            return str(label)
        texts = [f"{value:.4g}" for value in values]
        if len(texts) == 1:
            return texts[0]
        return ", ".join(f"{name} {text}" for name, text in zip(self.names, texts, strict=True))

    # Errors of outputs

    def difference_scale(self, width: int, height: int, spread: Any) -> Any:
        """Divisor that makes differences of outputs relative, for a picture size in pixels.

        ``spread`` is the standard deviation of the labels (width,), or 1.
        """
        return 1.0

    def error(self, label: Any, output: np.ndarray, box: Sequence[float]) -> float | None:
        """Point error in percent, NaN if undefined; None for tasks without points.

        Points are fractions of the crop; ``box`` is the crop in the picture's pixels.
        """
        return None

    def likelihoods(self, label: Any, output: np.ndarray, spread: Any) -> list[float]:
        """Probabilities that the output gives to the label; the least probable cases are worst.

        ``spread`` is the standard deviation of the labels, of the label's shape.
        """
        return []

    def case_lines(self, label: Any, output: np.ndarray, box: Sequence[float]) -> list[Line]:
        """Lines beside a test case; ``label`` is None if it is missing."""
        return []

    def curve(self, labels: np.ndarray, outputs: np.ndarray, boxes: np.ndarray) -> Curve | None:
        """The plot of a test set of N pictures; ``boxes`` (N, 4) are the crops in pixels."""
        return None


def numbered(name: str, count: int) -> list[str]:
    """Default names of outputs: the task's if there is one output, else "0", "1", ..."""
    return [name] if count == 1 else [str(index) for index in range(count)]
