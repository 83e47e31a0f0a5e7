"""Run an exported model. Needs numpy, OpenCV and onnxruntime; neither torch nor MMEngine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from trn_plugin.deploy._onnx_wire import has_external_data
from trn_plugin.deploy.inputs import find_pictures
from trn_plugin.deploy.metadata import (
    INPUT_NAME,
    METADATA_KEY,
    feature_names,
    parse_metadata,
)
from trn_plugin.errors import CheckpointError, ConfigError, DataError, first_line, printable
from trn_plugin.geometry import LARGEST_BOX, crop, read_image
from trn_plugin.tasks import TASKS, NumbersTask, Task, read_task

__all__ = ["TaskPredictor", "cut_face", "open_session", "providers_of"]

Box = tuple[int, int, int, int]
Picture = np.ndarray | str | Path

EXPORTED = "a file written by trn-plugin export"
WARNINGS, SILENT = 2, 4
"""onnxruntime's severities of log: its default, and fatal errors only."""
LARGEST_BATCH = 32_000_000
"""Pixels run at once, unless one picture has more: a float32 copy of them takes 384 MB."""
DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


def providers_of(name: str | None) -> list[str] | None:
    """onnxruntime's names for 'cpu' or 'cuda' (what CUDA cannot run, the CPU does); None as it is.

    Raises:
        ConfigError: another name.
    """
    cpu = "CPUExecutionProvider"
    known = {None: None, "cpu": [cpu], "cuda": ["CUDAExecutionProvider", cpu]}
    if name not in known:
        raise ConfigError(f"provider: expected cpu or cuda, found {name!r}")
    return known[name]


def open_session(
    path: str, providers: Sequence[str] | None = None, threads: int | None = None
) -> onnxruntime.InferenceSession:
    """Load an ONNX file.

    Args:
        path: the file.
        providers: default CUDA where onnxruntime has it, then the CPU.
        threads: of the CPU; default onnxruntime's choice, one for each core.

    Raises:
        CheckpointError: if the file is missing, is no ONNX model that onnxruntime can run, or
            takes weights from another file.
        ConfigError: if a provider is not available, or one asked for cannot be started.
    """
    available = onnxruntime.get_available_providers()
    asked = providers or ()
    if providers is None:
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in available]
    unknown = [name for name in providers if name not in available]
    if unknown:
        raise ConfigError(
            f"onnxruntime has no provider {unknown[0]!r} here; it has {', '.join(available)}"
        )
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; expected {EXPORTED}")
    _refuse_external_data(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    cpu, failure = ["CPUExecutionProvider"], ""
    try:
        session = _create_session(path, options, providers)
    except Exception as error:  # onnxruntime's errors share no base class
        failure = first_line(error)
        try:
            if list(providers) == cpu:
                raise
            session = _create_session(path, options, cpu)
        except Exception as error:
            reason = str(error).split(f"{path} failed:")[-1].split("\n")[0].strip()
            raise CheckpointError(
                f"{path}: onnxruntime cannot load it: {reason}; expected {EXPORTED}"
            ) from error
    missing = [name for name in asked if name not in session.get_providers()]
    if missing:
        raise ConfigError(
            f"onnxruntime cannot start the provider {missing[0]!r} here"
            + (f": {printable(failure)}" if failure else "; it would fall back to the CPU")
        )
    return session


def _create_session(
    path: str, options: onnxruntime.SessionOptions, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    """A session whose failures are exceptions only: nothing is logged, printed or tried again."""
    # What fails in CUDA's libraries goes to the logger of the process.
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=list(providers), enable_fallback=0
        )
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)


def _refuse_external_data(path: str) -> None:
    """Refuse a model with external data: old versions of onnxruntime read any file for it."""
    try:
        external = has_external_data(path)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: onnxruntime cannot load it: {error}; expected {EXPORTED}"
        ) from None
    if external:
        raise CheckpointError(f"{path}: refused, it takes weights from another file")


class TaskPredictor:
    """The tasks of an exported model, or of a config and its checkpoint, on pictures.

    Args:
        path: a file written by ``trn-plugin export``; a config where a checkpoint is given.
        providers: onnxruntime execution providers; default CUDA where present, then the CPU.
        threads: of the CPU; default onnxruntime's choice, one for each core.
        checkpoint: run this in PyTorch, on CUDA where present; the results are those of the
            exported file.

    Attributes:
        tasks (dict[str, Task]): by name, see :mod:`trn_plugin.tasks`; named numbers where the file
            has a kind that is not registered here.
        input_size (tuple[int, int]): height and width, in pixels, of the network's input.
        features (tuple[str, ...]): of "hidden" and "output", what :meth:`run` gives besides.
        metadata (dict): all that the file says of itself.

    Raises:
        CheckpointError: if the file is missing, damaged, of another origin or of a newer format,
            or names more or fewer points or classes than it gives.
        ConfigError: if a provider is not available, or one asked for cannot be started.

    Example::

        predictor = TaskPredictor("model.onnx")
        face = predictor.predict("face.jpg")[0]
        face["landmarks"], face["pose"]["label"]
    """

    def __init__(
        self,
        path: str,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        *,
        checkpoint: str | None = None,
    ):
        self.path = str(path if checkpoint is None else checkpoint)
        self.network = None
        if checkpoint is not None:
            from trn_plugin.deploy.network import Network

            self.network = Network(str(path), self.path)
            self.metadata, self.tasks = self.network.metadata, self.network.tasks
            self.input_size, self.features = self.metadata["input_size"], ()
            self.outputs, self.dtype = list(self.tasks), np.uint8
            return
        self.session = open_session(self.path, providers, threads)
        text = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.metadata = parse_metadata(text, self.path)
        shapes = {value.name: value.shape for value in self.session.get_outputs()}
        self.tasks: dict[str, Task] = {
            name: self._task(name, info, shapes.get(name))
            for name, info in self.metadata["tasks"].items()
        }
        self.input_size: tuple[int, int] = self.metadata["input_size"]
        self.features: tuple[str, ...] = self.metadata["features"]
        self.outputs = [*self.tasks, *feature_names(self.features, self.tasks)]
        inputs = {value.name: value.type for value in self.session.get_inputs()}
        outputs = [value.name for value in self.session.get_outputs()]
        if list(inputs) != [INPUT_NAME] or outputs != self.outputs:
            raise CheckpointError(
                f"{self.path}: expected input {INPUT_NAME} and outputs {', '.join(self.outputs)}, "
                f"found {', '.join(inputs)} and {', '.join(outputs)}; export again"
            )
        if inputs[INPUT_NAME] not in DTYPES:
            raise CheckpointError(
                f"{self.path}: expected an input of {' or '.join(DTYPES)}, "
                f"found {inputs[INPUT_NAME]}; export again"
            )
        self.dtype = DTYPES[inputs[INPUT_NAME]]
        for value in self.session.get_outputs():
            self._check_shape(value.name, value.shape)

    def _task(self, name: str, info: dict, shape: Sequence | None) -> Task:
        """The task that the file describes; named numbers where its kind is not imported."""
        try:
            if info["kind"] in TASKS:
                return read_task(name, info)
            sizes = tuple(size for size in (shape or ())[1:] if isinstance(size, int))
            return NumbersTask(name, info, sizes)
        except (ConfigError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: its metadata is damaged ({printable(error)}); export again"
            ) from None

    def _check_shape(self, output: str, shape: Sequence) -> None:
        """Whether an output has an element for each name; a size that is no number is open."""
        if output not in self.tasks:
            return
        task = self.tasks[output]
        expected = list(task.output_shape)
        found = list(shape)[1:]
        same = len(found) == len(expected) and all(
            size == wanted or not isinstance(size, int)
            for size, wanted in zip(found, expected, strict=True)
        )
        if shape and not same:
            raise CheckpointError(
                f"{self.path}: its metadata names {len(task.names)} {task.noun} of {output}, which "
                f"need an output of {_times(['N', *expected])}, found {_times(['N', *found])}; "
                "export again"
            )

    def __repr__(self) -> str:
        height, width = self.input_size
        return f"TaskPredictor({self.path!r}, tasks={list(self.tasks)}, {height}x{width})"

    def predict(
        self,
        images: Picture | Sequence[Picture],
        boxes: Sequence[Box | None] | None = None,
        batch_size: int = 32,
        names: Sequence[str] | None = None,
    ) -> list[dict]:
        """Predict every task for each picture, or for each picture's box.

        Args:
            images: pictures or crops, one or several: (H, W, 3) uint8 RGB arrays, whose sizes may
                differ, files, or folders, of which all pictures are taken in order of their names.
            boxes: one for each picture: (x0, y0, x1, y1) in whole pixels, x1 and y1 excluded, or
                None for the whole picture. A box may reach beyond the picture (black there).
            batch_size: faces run at once; only crops of one size share a batch, and only as many
                as have 32 million pixels together.
            names: how to call each picture in a message; default its path, or "picture 0".

        Returns:
            list[dict]: for each picture, task -> landmarks: (P, 2) float array, x and y in pixels
            of the given picture; class: dict of ``label``, ``index`` and ``probabilities`` (list,
            in the order of the classes); attributes: dict of name -> probability;
            values: dict of name -> number in the labels' unit.

        Raises:
            DataError: if a picture or box cannot be used; the message names it.
            CheckpointError: if onnxruntime fails, for want of memory for example.
        """
        images, known = _pictures(images)
        names = names or known
        if boxes is None:
            boxes = [None] * len(images)
        if len(boxes) != len(images):
            raise DataError(f"expected one box a picture, found {len(boxes)} for {len(images)}")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, found {batch_size}")
        crops = [cut_face(*given) for given in zip(images, boxes, names, strict=True)]
        corners = [(0, 0) if box is None else box[:2] for box in boxes]
        return [
            {name: task.read(found[name], corner) for name, task in self.tasks.items()}
            for found, corner in zip(self.run_each(crops, batch_size, names), corners, strict=True)
        ]

    def run_each(
        self,
        images: Sequence[np.ndarray],
        batch_size: int = 32,
        names: Sequence[str] | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """The bare outputs of each picture, as of :meth:`run` without the first axis.

        Args:
            images: each (H, W, 3) uint8 RGB; only those of one size share a batch, and only as
                many as have 32 million pixels together.
            batch_size: pictures run at once.
            names: as of :meth:`predict`.

        Raises:
            CheckpointError: if onnxruntime fails, for want of memory for example.
        """
        if names is None:
            names = [f"picture {index}" for index in range(len(images))]
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(index)
        results: list[dict] = [{} for _ in images]
        for (height, width, *_), indices in by_size.items():
            at_once = min(batch_size, max(LARGEST_BATCH // (height * width), 1))
            for start in range(0, len(indices), at_once):
                chunk = indices[start : start + at_once]
                try:
                    outputs = self.run(np.stack([images[index] for index in chunk]))
                except CheckpointError as error:
                    last = f" to {names[chunk[-1]]}" if len(chunk) > 1 else ""
                    raise CheckpointError(f"{names[chunk[0]]}{last}: {error}") from error
                for row, index in enumerate(chunk):
                    results[index] = {name: values[row] for name, values in outputs.items()}
        return results

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The bare outputs for (N, H, W, 3) uint8 RGB: task -> array.

        Landmarks are (N, P, 2) pixels of the given pictures, classes (N, C) and attributes (N, A)
        probabilities, values (N, V). A file exported with features also gives ``hidden/<task>`` and
        ``output/<task>``, (N, d).

        Raises:
            CheckpointError: if onnxruntime fails, for want of memory for example.
        """
        size = _times(images.shape)
        if self.network is not None:
            return self.network.run(images)
        try:
            images = np.ascontiguousarray(images, dtype=self.dtype)
            outputs = self.session.run(None, {INPUT_NAME: images})
        except Exception as error:  # onnxruntime's errors share no base class
            raise CheckpointError(
                f"{self.path}: onnxruntime cannot run it on a batch of {size}: "
                f"{printable(first_line(error))}; a smaller --batch-size needs less memory"
            ) from error
        for name, values in zip(self.outputs, outputs, strict=True):
            self._check_shape(name, values.shape)
        return dict(zip(self.outputs, outputs, strict=True))


def _pictures(given: Picture | Sequence[Picture]) -> tuple[list[np.ndarray], list[str]]:
    """All pictures that are given, and what messages call them."""
    if isinstance(given, (str, Path, np.ndarray)) and np.ndim(given) < 4:
        given = [given]
    images, names = [], []
    for item in given:
        if not isinstance(item, (str, Path)):
            names.append(f"picture {len(images)}")
            images.append(item)
            continue
        for path in find_pictures([str(item)]):
            names.append(str(path))
            images.append(read_image(str(path)))
    return images, names


def _times(sizes: Sequence) -> str:
    return f"({', '.join(map(str, sizes))})"


def cut_face(image: np.ndarray, box: Box | None, where: str) -> np.ndarray:
    """A box of a picture, black where it reaches beyond; the whole picture for None.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: (x0, y0, x1, y1) in whole pixels, x1 and y1 excluded.
        where: begins every message.

    Raises:
        DataError: not such a picture, or a box that cannot be used.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image)
        raise DataError(f"{where}: expected a uint8 array (H, W, 3), found {found}")
    if image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"{where}: expected a uint8 array (H, W, 3), found shape {image.shape}")
    if box is None:
        return image
    if len(box) != 4 or any(int(value) != value for value in box):
        raise DataError(f"{where}: expected a box of four whole pixels, found {tuple(box)}")
    box = tuple(int(value) for value in box)
    if (box[2] - box[0]) * (box[3] - box[1]) > LARGEST_BOX:
        raise DataError(f"{where}: box {box} is larger than {LARGEST_BOX} pixels")
    try:
        return crop(image, box)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
