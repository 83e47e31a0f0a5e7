"""Run an exported model. Needs numpy, OpenCV and onnxruntime; neither torch nor MMEngine."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from trn_plugin.deploy.crops import crop_around, whole_pictures_note
from trn_plugin.deploy.cutting import (
    Picture,
    Place,
    cut_box,
    cut_places,
    read_pictures,
    resized,
)
from trn_plugin.deploy.detector import Detector, detections
from trn_plugin.deploy.inputs import Box
from trn_plugin.deploy.metadata import (
    INPUT_NAME,
    METADATA_KEY,
    feature_names,
    parse_metadata,
    sizes_text,
)
from trn_plugin.deploy.session import open_session
from trn_plugin.errors import CheckpointError, ConfigError, DataError, first_line, printable
from trn_plugin.tasks import TASKS, NumbersTask, Task, read_task

__all__ = ["TaskPredictor"]

LARGEST_BATCH = 32_000_000
"""Pixels in a batch, unless one picture has more; a float32 copy of them takes 384 MB."""
DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


class TaskPredictor:
    """Predicts tasks on pictures with an exported model, or with a config and its checkpoint.

    Args:
        path: a file written by ``trn-plugin export``, or a config if ``checkpoint`` is given.
        providers: onnxruntime execution providers; default CUDA if present, then the CPU.
        threads: CPU threads; default onnxruntime's choice, one per core.
        spinning: idle threads of onnxruntime busy-wait for the next call, which makes it faster;
            False leaves this time to the program's other threads.
        checkpoint: run this in PyTorch, on CUDA if present, with the results of the exported file.

    Attributes:
        tasks (dict[str, Task]): by name, see :mod:`trn_plugin.tasks`; named numbers for a kind that
            is not registered here.
        input_size (tuple[int, int]): height and width, in pixels, of the network's input.
        features (tuple[str, ...]): levels of features that :meth:`run` outputs: "hidden", "output".
        metadata (dict): metadata of the file.

    Raises:
        CheckpointError: the file is missing, damaged, not from ``trn-plugin export`` or of a newer
            format, or its names do not match its outputs.
        ConfigError: a provider is not available or cannot be started.

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
        spinning: bool = True,
        checkpoint: str | None = None,
    ):
        self.path = str(path if checkpoint is None else checkpoint)
        self.network, self._told = None, False
        if checkpoint is not None:
            from trn_plugin.deploy.network import Network

            self.network = Network(str(path), self.path)
            self.metadata, self.tasks = self.network.metadata, self.network.tasks
            self.input_size, self.features = self.metadata["input_size"], ()
            self.outputs, self.dtype = list(self.tasks), np.uint8
            return
        self.session = open_session(self.path, providers, threads, spinning)
        text = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.metadata = parse_metadata(text, self.path)
        described = self.metadata["tasks"]
        self.input_size: tuple[int, int] = self.metadata["input_size"]
        self.features: tuple[str, ...] = self.metadata["features"]
        self.outputs = [*described, *feature_names(self.features, described)]
        inputs = {value.name: DTYPES.get(value.type) for value in self.session.get_inputs()}
        shapes = {value.name: value.shape for value in self.session.get_outputs()}
        if list(inputs) != [INPUT_NAME] or None in inputs.values() or list(shapes) != self.outputs:
            raise CheckpointError(
                f"{self.path}: expected input {INPUT_NAME} of {' or '.join(DTYPES)} and outputs "
                f"{', '.join(self.outputs)}, found {', '.join(inputs)} and {', '.join(shapes)}; "
                "export again"
            )
        self.dtype = inputs[INPUT_NAME]
        self.tasks: dict[str, Task] = {
            name: self._task(name, info, shapes[name]) for name, info in described.items()
        }
        for name, task in self.tasks.items():
            expected, found = ["N", *task.output_shape], ["N", *shapes[name][1:]]
            if found != expected:
                raise CheckpointError(
                    f"{self.path}: its metadata names {len(task.names)} {task.noun} of {name}, "
                    f"which need an output of {sizes_text(expected)}, found {sizes_text(found)}; "
                    "export again"
                )

    def _task(self, name: str, info: dict, shape: Sequence) -> Task:
        """The task that the file describes; named numbers if its kind is not registered."""
        try:
            if info["kind"] in TASKS:
                return read_task(name, info)
            return NumbersTask(name, info, tuple(shape[1:]))
        except (ConfigError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: its metadata is damaged ({printable(error)}); export again"
            ) from None

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
        """Predict every task for each picture, or for one box in each picture.

        Args:
            images: one or several pictures: (H, W, 3) uint8 RGB arrays, whose sizes may differ,
                files, or folders, whose pictures are taken in order of their names.
            boxes: for each picture (x0, y0, x1, y1) in whole pixels, x1 and y1 excluded, or None
                for the whole picture. Outside the picture a box is black. Without ``boxes``, a
                model trained on crops warns once.
            batch_size: crops run at once; a batch has crops of one size and at most 32 million
                pixels.
            names: names of the pictures in messages; default their paths, or "picture 0".

        Returns:
            list[dict]: for each picture, by task: landmarks as (P, 2) floats, x and y in pixels of
            the given picture; a class as dict of ``label``, ``index`` and ``probabilities`` (list,
            in the order of the classes); attributes as dict name -> probability; values as dict
            name -> number in the labels' unit. ``path`` for pictures given as files or folders.

        Raises:
            DataError: a picture or box cannot be used; the message names it.
            CheckpointError: onnxruntime fails, for example without enough memory.
        """
        images, known, paths = read_pictures(images)
        names = names or known
        if boxes is None:
            boxes = [None] * len(images)
            note = whole_pictures_note(self.path, self.metadata.get("crop"))
            if note and not self._told:
                warnings.warn(f"{note}; give the objects with boxes=...", stacklevel=2)
                self._told = True
        if len(boxes) != len(images):
            raise DataError(
                f"boxes: expected one box per picture, found {len(boxes)} for {len(images)}"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, found {batch_size}")
        crops = [cut_box(*given) for given in zip(images, boxes, names, strict=True)]
        found = self.predict_crops(crops, boxes, batch_size, names)
        return [{**path, **each} for path, each in zip(paths, found, strict=True)]

    def predict_objects(
        self, images: Picture | Sequence[Picture], detector: Detector, batch_size: int = 32
    ) -> list[list[dict]]:
        """Predict every task for each object that a detector finds.

        Args:
            images: see :meth:`predict`.
            detector: a function from a picture (H, W, 3) uint8 RGB to boxes (x0, y0, x1, y1) in
                pixels or :class:`trn_plugin.deploy.detector.Detection`, such as
                :class:`trn_plugin.deploy.detector.FaceDetector`. Each becomes a crop as in
                training, see :func:`trn_plugin.deploy.crops.crop_around`.
            batch_size: objects run at once.

        Returns:
            list[list[dict]]: for each picture and object, ``box``, the crop (x0, y0, x1, y1) in
            whole pixels, and the tasks and ``path`` as from :meth:`predict`. A crop wholly outside
            the picture is left out with a warning.

        Raises:
            ConfigError: see :func:`trn_plugin.deploy.detector.detections`.
        """
        images, names, paths = read_pictures(images)
        crop = self.metadata.get("crop")
        found = []
        for image, name, path in zip(images, names, paths, strict=True):
            objects = detections(detector, cut_box(image, None, name), name)
            places = [Place(crop_around(crop, each.box, each.points), name) for each in objects]
            places, crops, problems = cut_places(image, places)
            for error, _ in problems:
                warnings.warn(f"{error}; left out", stacklevel=2)
            boxes = [place.box for place in places]
            predictions = self.predict_crops(crops, boxes, batch_size, [name] * len(boxes))
            pairs = zip(boxes, predictions, strict=True)
            found.append([{**path, "box": box, **each} for box, each in pairs])
        return found

    def predict_crops(
        self,
        crops: Sequence[np.ndarray],
        boxes: Sequence[Box | None],
        batch_size: int = 32,
        names: Sequence[str] | None = None,
    ) -> list[dict]:
        """Like :meth:`predict`, for boxes that are cropped already: (H, W, 3) uint8 RGB."""
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
        """The raw outputs of each picture, as from :meth:`run` without the first axis.

        Args:
            images: (H, W, 3) uint8 RGB, whose sizes may differ.
            batch_size, names: see :meth:`predict`.

        Raises:
            CheckpointError: onnxruntime fails, for example without enough memory.
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
        """The raw outputs for (N, H, W, 3) uint8 RGB, by task.

        Landmarks (N, P, 2) in pixels of the given pictures, probabilities of classes (N, C) and
        attributes (N, A), values (N, V); from a file with features also ``hidden/<task>`` and
        ``output/<task>``, (N, d).

        Raises:
            CheckpointError: onnxruntime fails, for example without enough memory.
        """
        if self.network is not None:
            return self.network.run(images)
        sides = images.shape[1:3]
        resize = self.metadata.get("resize") == "none" and sides != self.input_size
        given = resized(images, self.input_size) if resize else images
        try:
            given = np.ascontiguousarray(given, dtype=self.dtype)
            found = self.session.run(None, {INPUT_NAME: given})
        except Exception as error:  # onnxruntime's errors share no base class
            raise CheckpointError(
                f"{self.path}: onnxruntime cannot run it on a batch of {sizes_text(given.shape)}: "
                f"{printable(first_line(error))}; a smaller --batch-size needs less memory"
            ) from error
        outputs = dict(zip(self.outputs, found, strict=True))
        if resize:
            scale = np.divide(sides[::-1], self.input_size[::-1])
            for name, task in self.tasks.items():
                rows = [task.mapped(row, lambda points: points * scale) for row in outputs[name]]
                outputs[name] = np.asarray(rows, dtype=outputs[name].dtype)
        return outputs
