"""Write a trained model as one ONNX file and check that file against PyTorch."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trn_plugin import __version__
from trn_plugin.deploy.metadata import (
    FORMAT_VERSION,
    INPUT_NAME,
    METADATA_KEY,
    NAMES_KEY,
    names_or_numbers,
    task_names,
)
from trn_plugin.deploy.runtime import FaceTaskPredictor
from trn_plugin.errors import CheckpointError, ConfigError
from trn_plugin.onnx_translations import onnx_translations

__all__ = ["DeployModel", "check_export", "describe_model", "export_onnx"]

OLDEST_OPSET = 18
"""The first that has an antialiased Resize."""
LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights: protobuf ends at 2 GiB, less what the graph itself takes."""
TOLERANCE = 1e-4
"""Of the picture's side for landmarks, absolute for probabilities."""
CHECK_BATCHES = (1, 2, 7)


class DeployModel(nn.Module):
    """A MultiTaskModel from the picture's pixels to what a user reads.

    Args:
        model: a built ``MultiTaskModel``; used in eval mode, on the device it is on.
        input_size: height and width, in pixels, of the network's input.
        tasks: the tasks to give, in this order; default all, in the order of the heads.

    Raises:
        ConfigError: if the model has no such task.
    """

    def __init__(
        self, model: nn.Module, input_size: tuple[int, int], tasks: Sequence[str] | None = None
    ):
        super().__init__()
        known = list(model.heads.keys())
        self.tasks = tuple(known if tasks is None else dict.fromkeys(tasks))
        unknown = [task for task in self.tasks if task not in known]
        if unknown or not self.tasks:
            found = f"{unknown[0]!r}" if unknown else "none"
            raise ConfigError(f"tasks: expected some of {', '.join(known)}, found {found}")
        self.model = model
        self.input_size = tuple(int(side) for side in input_size)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Pictures (N, H, W, 3) uint8 RGB of any size -> one tensor a task.

        Returns:
            tuple[Tensor, ...]: (N, P, 2) landmarks in pixels of the given pictures, (N, C) class
            or (N, A) attribute probabilities.
        """
        height, width = images.shape[1], images.shape[2]
        # Not rounded to whole grey levels: a last-bit difference between two resizes would turn
        # into a whole level wherever a pixel lies halfway, as every 64th does at half size.
        inputs = images.permute(0, 3, 1, 2).float()
        inputs = F.interpolate(
            inputs, self.input_size, mode="bilinear", align_corners=False, antialias=True
        )
        raw = self.model(self.model.data_preprocessor.normalize(inputs), mode="tensor")
        outputs = []
        for task in self.tasks:
            head = self.model.heads[task]
            output = head.predict(raw[task])
            if head.kind == "landmarks":
                output = torch.stack((output[..., 0] * width, output[..., 1] * height), dim=-1)
            outputs.append(output)
        return tuple(outputs)


def describe_model(
    model: nn.Module,
    input_size: tuple[int, int],
    dataset_tasks: dict[str, dict] | None = None,
    metrics: dict[str, float] | None = None,
) -> dict:
    """The metadata of an exported file.

    Args:
        model: a built ``MultiTaskModel``.
        input_size: height and width, in pixels, of the network's input.
        dataset_tasks: the ``tasks`` of the data set trained on; names come from here, else from
            the head, else they are numbers.
        metrics: what the checkpoint scored, where known.

    Raises:
        CheckpointError: if the data set and the head disagree on a task's kind.
    """
    tasks = {}
    for task, head in model.heads.items():
        key = NAMES_KEY[head.kind]
        described = (dataset_tasks or {}).get(task)
        if described is not None and described.get("kind") != head.kind:
            raise CheckpointError(
                f"task {task}: the head is of kind {head.kind!r}, "
                f"the checkpoint's data set of kind {described.get('kind')!r}"
            )
        names = (described or {}).get(key) or getattr(head, "names", None)
        tasks[task] = {"kind": head.kind, key: list(names) if names else None}
    preprocessor = model.data_preprocessor
    return {
        "format_version": FORMAT_VERSION,
        "tasks": tasks,
        "input_size": [int(side) for side in input_size],
        "mean": [round(value, 4) for value in preprocessor.mean.flatten().tolist()],
        "std": [round(value, 4) for value in preprocessor.std.flatten().tolist()],
        "backbone": getattr(model.backbone, "model_name", None),
        "metrics": metrics or {},
        "versions": {
            "trn_plugin": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
    }


def export_onnx(
    model: nn.Module,
    out_path: str | os.PathLike,
    input_size: tuple[int, int],
    metadata: dict,
    opset: int | None = None,
    tasks: Sequence[str] | None = None,
    check_images: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:
    """Write ``model`` to ``out_path`` as one ONNX file and check it against PyTorch.

    The file has one input, ``images``: uint8 (N, H, W, 3) RGB with N, H and W free; resizing and
    normalisation are in the graph. It has one output for each task, named as the task; see
    :meth:`DeployModel.forward`. It appears at ``out_path`` only when it agrees with PyTorch.

    Args:
        model: a built ``MultiTaskModel`` on the CPU; left in the mode it was in.
        out_path: the file to write.
        input_size: height and width, in pixels, of the network's input.
        metadata: from :func:`describe_model`; written as JSON under the key ``trn_plugin``.
        opset: ONNX operator set, 18 or later; default torch's choice.
        tasks: the tasks to export; default all.
        check_images: (H, W, 3) uint8 RGB pictures to check on, besides random ones.

    Returns:
        dict[str, float]: for each task the largest difference, see :func:`check_export`.

    Raises:
        ConfigError: on an unknown task, an opset that cannot be had, or too large a model.
        CheckpointError: if the model cannot be exported, or the file disagrees with PyTorch.
    """
    out_path = Path(out_path)
    if opset is not None and opset < OLDEST_OPSET:
        raise ConfigError(f"opset: expected at least {OLDEST_OPSET}, found {opset}")
    deployed = DeployModel(model, input_size, tasks)
    if model.data_preprocessor.mean.numel() != 3:
        raise ConfigError(
            f"model.data_preprocessor.mean: expected 3 values, for RGB pictures, found "
            f"{model.data_preprocessor.mean.numel()}"
        )
    if INPUT_NAME in deployed.tasks:
        raise ConfigError(f"task {INPUT_NAME!r} is named as the exported model's input; rename it")
    size = sum(
        tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()]
    )
    if size > LARGEST_FILE:
        raise ConfigError(
            f"the model's weights take {size / 2**30:.1f} GiB, one ONNX file holds 2 GiB: "
            "choose a smaller backbone"
        )
    if out_path.is_dir():
        raise ConfigError(f"{out_path}: is a folder; expected the name of an .onnx file")
    try:
        out_path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out_path}: cannot be written: {error.strerror or error}") from error
    partial = out_path.with_name(f".{out_path.name}.{os.getpid()}.partial")
    modes = {module: module.training for module in model.modules()}
    deployed.eval()
    try:
        partial.touch()
        metadata = _complete(metadata, deployed)
        _write(_export(deployed, opset), partial, metadata, opset)
        differences = check_export(partial, deployed, check_images, name=str(out_path))
        os.replace(partial, out_path)
    except OSError as error:
        raise ConfigError(f"{out_path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
        for module, training in modes.items():
            module.training = training
    return differences


@torch.no_grad()
def check_export(
    path: str | os.PathLike,
    deployed: DeployModel,
    images: Sequence[np.ndarray] | None = None,
    tolerance: float = TOLERANCE,
    name: str | None = None,
) -> dict[str, float]:
    """Compare the file at ``path``, run by onnxruntime on the CPU, with ``deployed``.

    Random pictures of the input's size, of a larger and of a smaller size, and ``images``, each in
    batches of 1, 2 and 7.

    Args:
        path: the exported file.
        deployed: the model it was exported from, in eval mode.
        images: further (H, W, 3) uint8 RGB pictures.
        tolerance: the largest difference allowed.
        name: how to call the file in messages; default its path.

    Returns:
        dict[str, float]: for each task the largest difference; of landmarks as fractions of the
        picture's sides, of probabilities as they are.

    Raises:
        CheckpointError: if a difference is over the tolerance or not a number.
    """
    name = name or str(path)
    predictor = FaceTaskPredictor(str(path), providers=["CPUExecutionProvider"])
    device = next(deployed.parameters()).device
    worst = dict.fromkeys(deployed.tasks, 0.0)
    height, width = deployed.input_size
    pictures = [
        _random_picture(*shape, seed)
        for seed, shape in enumerate(
            [
                (height, width),
                (height * 7 // 4 + 1, width * 5 // 4 + 2),
                (height * 2 // 3 + 1, width * 3 // 4 + 1),
            ]
        )
    ]
    for picture in [*pictures, *(images or [])]:
        for size in CHECK_BATCHES:
            batch = np.stack([np.roll(picture, 3 * shift, axis=1) for shift in range(size)])
            expected = deployed(torch.from_numpy(batch).to(device))
            found = predictor.run(batch)
            for task, reference in zip(deployed.tasks, expected, strict=True):
                reference = reference.cpu().numpy()
                if found[task].shape != reference.shape:
                    raise CheckpointError(
                        f"{name}: output {task} has shape {found[task].shape} at batch {size}, "
                        f"PyTorch gives {reference.shape}"
                    )
                difference = np.abs(found[task] - reference)
                if predictor.tasks[task]["kind"] == "landmarks":
                    difference = difference / np.array(picture.shape[1::-1])
                largest = float(difference.max())
                if not largest <= tolerance:
                    raise CheckpointError(
                        f"{name}: output {task} differs from PyTorch by {largest:.2g} at batch "
                        f"{size} of {picture.shape[1]} x {picture.shape[0]} pixels; "
                        f"allowed is {tolerance:.0e}"
                    )
                worst[task] = max(worst[task], largest)
    return worst


def _complete(metadata: dict, deployed: DeployModel) -> dict:
    """The metadata of the chosen tasks alone, every output named, checked against the outputs."""
    height, width = deployed.input_size
    device = next(deployed.parameters()).device
    with torch.no_grad():
        outputs = deployed(torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device))
    tasks = {}
    for task, output in zip(deployed.tasks, outputs, strict=True):
        described = dict(metadata["tasks"][task])
        key = NAMES_KEY[described["kind"]]
        described[key] = names_or_numbers(task, described.get(key), output.shape[1])
        if len(task_names(described)) != output.shape[1]:
            raise CheckpointError(
                f"task {task}: the checkpoint's data set names {len(task_names(described))} "
                f"{key}, the head has {output.shape[1]} outputs"
            )
        tasks[task] = described
    return {**metadata, "tasks": tasks}


def _export(deployed: DeployModel, opset: int | None):
    height, width = deployed.input_size
    # A batch of 2 and odd, unequal sides: torch.export takes 0, 1 and equal sizes for constants.
    example = torch.zeros(2, height + 13, width + 30, 3, dtype=torch.uint8)
    example = example.to(next(deployed.parameters()).device)
    free = {axis: torch.export.Dim(letter) for axis, letter in enumerate("NHW")}
    try:
        with _quiet(), torch.no_grad():
            return torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=list(deployed.tasks),
                dynamic_shapes=(free,),
                external_data=False,
                custom_translation_table=onnx_translations(),
            )
    except Exception as error:  # the exporter's errors share no base class
        cause = error.__cause__ or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        backbone = getattr(deployed.model.backbone, "model_name", "this backbone")
        raise CheckpointError(
            f"{backbone}: torch.onnx cannot export it: {type(cause).__name__}: "
            f"{lines[0] if lines else 'no reason given'}"
        ) from error


def _write(program, path: Path, metadata: dict, opset: int | None) -> None:
    proto = program.model_proto
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opset is not None and opsets.get("") != opset:
        raise ConfigError(f"opset: torch.onnx cannot write {opset}; it wrote {opsets.get('')}")
    # The exporter notes the source line of every node: the exporting machine's paths.
    for graph in [proto.graph, *proto.functions]:
        for part in [graph, *graph.node]:
            del part.metadata_props[:]
            part.doc_string = ""
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
    path.write_bytes(proto.SerializeToString())


def _random_picture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth random colours with some noise, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 5, 5)))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    noisy = smooth.permute(1, 2, 0).numpy() + rng.normal(0, 8, (height, width, 3))
    return noisy.round().clip(0, 255).astype(np.uint8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
