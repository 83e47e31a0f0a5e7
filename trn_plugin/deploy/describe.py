"""Metadata and documentation of an exported file."""

from __future__ import annotations

import onnx
import onnxruntime
import timm
import torch
from torch import nn

from trn_plugin import __version__
from trn_plugin.deploy.metadata import FORMAT_VERSION, INPUT_NAME
from trn_plugin.deploy.model import DeployModel
from trn_plugin.errors import CheckpointError
from trn_plugin.tasks import numbered, read_tasks

__all__ = ["describe_graph", "describe_model", "write_docs"]


def describe_model(
    model: nn.Module,
    input_size: tuple[int, int],
    dataset_tasks: dict[str, dict] | None = None,
    metrics: dict[str, float] | None = None,
    metrics_of: str | None = None,
    crop: dict | None = None,
) -> dict:
    """The metadata of an exported file, without the entries of :func:`describe_graph`.

    Args:
        model: a built ``MultiTaskModel``.
        input_size: height and width, in pixels, of the network's input.
        dataset_tasks: ``tasks`` of the training set's metainfo, the first source of names; then the
            heads' names, then numbers.
        metrics: metrics of the checkpoint, if known.
        metrics_of: what they were measured on, in a few words.
        crop: the crop that the model was trained on, see
            :func:`trn_plugin.deploy.checkpoint.crop_of`.

    Raises:
        CheckpointError: data set and head disagree on a task's kind or its number of names.
    """
    tasks = {}
    for task, head in model.heads.items():
        described = (dataset_tasks or {}).get(task)
        if described is not None and described.get("kind") != head.task.kind:
            raise CheckpointError(
                f"task {task}: the head is of kind {head.task.kind!r}, "
                f"the checkpoint's data set of kind {described.get('kind')!r}"
            )
        key, count = head.task.names_key, len(head.task.names)
        names = (described or {}).get(key) or head.names or numbered(task, count)
        if len(names) != count:
            raise CheckpointError(
                f"task {task}: the checkpoint's data set names {len(names)} {key}, the head has "
                f"{count} outputs"
            )
        own = type(head.task)(task, {**head.task.info, **(described or {}), key: list(names)})
        tasks[task] = own.exported()
    preprocessor = model.data_preprocessor
    return {
        "format_version": FORMAT_VERSION,
        "tasks": tasks,
        "input_size": [int(side) for side in input_size],
        "mean": [round(value, 4) for value in preprocessor.mean.flatten().tolist()],
        "std": [round(value, 4) for value in preprocessor.std.flatten().tolist()],
        "crop": crop,
        "backbone": getattr(model.backbone, "model_name", None),
        "metrics": metrics or {},
        "metrics_of": metrics_of,
        "versions": {
            "trn_plugin": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


def describe_graph(deployed: DeployModel, tasks: dict[str, dict], dtype: str) -> dict:
    """Input, outputs and pre-processing of an exported graph.

    Args:
        deployed: the exported model.
        tasks: ``tasks`` of the metadata.
        dtype: dtype of the input, 'uint8' or 'float32'.

    Returns:
        dict: ``input``, ``resize``, ``inside`` and ``outputs`` of the metadata.
    """
    height, width = deployed.input_size
    normalize = deployed.model.data_preprocessor
    mean, std = (
        ", ".join(f"{value:.4g}" for value in part.flatten().tolist())
        for part in (normalize.mean, normalize.std)
    )
    inside = [f"normalisation in the graph: (pixel - mean) / std, mean {mean}, std {std}"]
    if deployed.resize != "none":
        inside.insert(0, f"resize in the graph to {width} x {height} pixels, antialiased bilinear")
    outputs = {
        name: {
            "shape": ["N", *task.output_shape],
            "meaning": task.meaning,
            "names": list(task.names),
        }
        for name, task in read_tasks(tasks).items()
    }
    features = {"hidden": "input of the task's last layer", "output": "predicted loss targets"}
    for name in deployed.outputs[len(outputs) :]:
        level, task = name.split("/", 1)
        outputs[name] = {"shape": ["N", "d"], "meaning": f"{task}, features: {features[level]}"}
    sides = ["H", "W"] if deployed.resize != "none" else [height, width]
    return {
        "input": {
            "name": INPUT_NAME,
            "shape": ["N", *sides, 3],
            "layout": "NHWC",
            "colours": "RGB",
            "type": dtype,
            "range": [0, 255],
        },
        "resize": deployed.resize,
        "inside": inside,
        "outputs": outputs,
    }


def write_docs(proto: onnx.ModelProto, metadata: dict) -> None:
    """Fill ONNX's ``doc_string`` fields from the metadata."""
    given = metadata["input"]
    shape = ", ".join(map(str, given["shape"]))
    text = (
        f"pictures ({shape}), {given['layout']}: height, width, then the channels "
        f"{given['colours']}; {given['type']}, 0 to 255"
    )
    if metadata.get("crop"):
        text += f"; each shows {metadata['crop']['text']}"
    proto.graph.input[0].doc_string = text
    for value in proto.graph.output:
        described = metadata["outputs"][value.name]
        names = f": {', '.join(described['names'])}" if "names" in described else ""
        value.doc_string = f"{described['meaning']}{names}"
    undone = "normalise" if metadata["resize"] == "none" else "resize or normalise"
    proto.doc_string = (
        f"Written by trn_plugin. Input: {text}. Do not {undone}: {'; '.join(metadata['inside'])}. "
        "The metadata entry trn_plugin holds all of this as JSON."
    )
