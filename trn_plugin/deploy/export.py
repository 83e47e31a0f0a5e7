"""Export a trained model to one ONNX file and check it against PyTorch."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from trn_plugin.deploy.check import TOLERANCE, check_export
from trn_plugin.deploy.describe import describe_graph, write_docs
from trn_plugin.deploy.metadata import INPUT_NAME, METADATA_KEY
from trn_plugin.deploy.model import RESIZES, DeployModel
from trn_plugin.deploy.precision import PRECISIONS, in_float16, to_int8
from trn_plugin.errors import CheckpointError, ConfigError, first_line
from trn_plugin.files import atomic_write
from trn_plugin.onnx_translations import onnx_translations

__all__ = ["check_opset", "export_onnx", "update_metadata"]

OLDEST_OPSET = 18
"""The first opset with an antialiased Resize."""
LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights: protobuf's limit of 2 GiB, less room for the graph."""


def export_onnx(
    model: nn.Module,
    out_path: str | os.PathLike,
    input_size: tuple[int, int],
    metadata: dict,
    opset: int | None = None,
    tasks: Sequence[str] | None = None,
    check_images: Sequence[np.ndarray] | None = None,
    precision: str = "fp32",
    float_input: bool = False,
    features: bool = False,
    resize: str = "operator",
    calibration: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:
    """Export ``model`` to one ONNX file and check it against PyTorch.

    The file has one input, ``images``: uint8 (N, H, W, 3) RGB with dynamic N, H and W; resizing and
    normalisation are in the graph. Each task has one output of its name, see
    :meth:`DeployModel.forward`. The file appears at ``out_path`` only after the check: fp32 must
    agree with PyTorch; reduced precision may differ by any finite number.

    Args:
        model: a built ``MultiTaskModel`` on the CPU; keeps its training mode.
        out_path: the file to write.
        input_size: height and width, in pixels, of the network's input.
        metadata: from :func:`describe_model`; written as JSON under the key ``trn_plugin``.
        opset: ONNX operator set, see :func:`check_opset`; default torch's choice.
        tasks: the tasks to export; default all.
        check_images: (H, W, 3) uint8 RGB pictures to check on, besides synthetic ones.
        precision: 'fp32', 'fp16' or 'int8', see :mod:`trn_plugin.deploy.precision`.
        float_input: take float32, 0..255, instead of uint8.
        features: also write the outputs ``hidden/<task>``, the input of the task's last layer, and
            ``output/<task>``, its predicted loss targets, to measure task similarity.
        resize: one of :data:`trn_plugin.deploy.model.RESIZES`; with 'none', H and W are fixed to
            ``input_size``.
        calibration: (H, W, 3) uint8 RGB pictures that calibrate 'int8'; default ``check_images``.

    Returns:
        dict[str, float]: largest difference of each output, see
        :func:`trn_plugin.deploy.check.check_export`.

    Raises:
        ConfigError: an unknown task, precision or resize, an unsupported opset, too large a model,
            or no pictures for 'int8'.
        CheckpointError: the model cannot be exported, or the file disagrees with PyTorch.
    """
    out_path = Path(out_path)
    check_opset(opset)
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: expected {', '.join(PRECISIONS)}, found {precision!r}")
    if resize not in RESIZES:
        raise ConfigError(f"resize: expected {', '.join(RESIZES)}, found {resize!r}")
    calibration = check_images if calibration is None else calibration
    if precision == "int8" and not calibration:
        raise ConfigError("precision int8: expected pictures to calibrate on, found none")
    deployed = DeployModel(model, input_size, tasks, features, resize)
    if model.data_preprocessor.mean.numel() != 3:
        raise ConfigError(
            f"model.data_preprocessor.mean: expected 3 values, for RGB pictures, found "
            f"{model.data_preprocessor.mean.numel()}"
        )
    size = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    if size > LARGEST_FILE:
        raise ConfigError(
            f"the model's weights take {size / 2**30:.1f} GiB, an ONNX file holds 2 GiB: "
            "choose a smaller backbone"
        )
    if out_path.is_dir():
        raise ConfigError(f"{out_path}: is a folder; expected the name of an .onnx file")
    modes = {module: module.training for module in model.modules()}
    deployed.eval()
    try:
        with atomic_write(out_path) as partial:
            partial.touch()
            exported = deployed
            if precision == "fp16":
                halved = in_float16(model)
                exported = DeployModel(halved, input_size, tasks, features, resize).eval()
            proto = _cleaned(_export(exported, opset, float_input), opset)
            metadata = _of_exported_tasks(metadata, deployed)
            dtype = "float32" if float_input else "uint8"
            metadata |= {"precision": precision, "opset": _opset(proto)}
            metadata |= describe_graph(deployed, metadata["tasks"], dtype)
            check = functools.partial(
                check_export, partial, deployed, check_images, name=str(out_path)
            )
            _write(proto, partial, metadata)
            differences = check(tolerance=None if precision == "fp16" else TOLERANCE)
            if precision == "int8":
                _write(_quantised(proto, calibration), partial, metadata)
                differences = check(tolerance=None)
    finally:
        for module, training in modes.items():
            module.training = training
    return differences


def _of_exported_tasks(metadata: dict, deployed: DeployModel) -> dict:
    """The metadata of the exported tasks only."""
    tasks = {task: dict(metadata["tasks"][task]) for task in deployed.tasks}
    left_out = metadata["tasks"].keys() - tasks.keys()
    dropped = {*left_out, "relation"} if left_out else ()
    metrics = {
        name: value
        for name, value in metadata.get("metrics", {}).items()
        if name.split("/")[0] not in dropped
    }
    features = list(deployed.features)
    return {**metadata, "tasks": tasks, "metrics": metrics, "features": features}


def _export(deployed: DeployModel, opset: int | None, float_input: bool):
    height, width = deployed.input_size
    # A batch of 2 and unequal sides: torch.export specialises on 0, 1 and equal sizes.
    dtype = torch.float32 if float_input else torch.uint8
    example = torch.zeros(2, height + 13, width + 30, 3, dtype=dtype)
    example = example.to(next(deployed.parameters()).device)
    if deployed.resize == "none":
        example = example[:, :height, :width].contiguous()
    letters = "N" if deployed.resize == "none" else "NHW"
    dynamic = {axis: torch.export.Dim(letter) for axis, letter in enumerate(letters)}
    try:
        with _silenced(), torch.no_grad():
            return torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=list(deployed.outputs),
                dynamic_shapes=(dynamic,),
                external_data=False,
                custom_translation_table=onnx_translations(),
            )
    except Exception as error:  # the exporter's errors share no base class
        cause = error.__cause__ or error
        backbone = getattr(deployed.model.backbone, "model_name", "this backbone")
        raise CheckpointError(
            f"{backbone}: torch.onnx cannot export it: {type(cause).__name__}: {first_line(cause)}"
        ) from error


def check_opset(opset: int | None) -> None:
    """Refuse an ONNX operator set that cannot be written here; None is torch's choice.

    Raises:
        ConfigError: naming the supported range.
    """
    if opset is None:
        return
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ConfigError(f"opset: expected {OLDEST_OPSET} to {newest}, found {opset}")


def _opset(proto: onnx.ModelProto) -> int:
    return {entry.domain: entry.version for entry in proto.opset_import}[""]


def _cleaned(program, opset: int | None) -> onnx.ModelProto:
    """The exported graph without source lines, which hold paths of the exporting machine."""
    proto = program.model_proto
    if opset is not None and _opset(proto) != opset:
        raise ConfigError(f"opset: torch.onnx cannot write {opset}; it wrote {_opset(proto)}")
    for graph in [proto.graph, *proto.functions]:
        for part in [graph, *graph.node]:
            del part.metadata_props[:]
            part.doc_string = ""
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    return proto


def _quantised(proto: onnx.ModelProto, pictures: Sequence[np.ndarray]) -> onnx.ModelProto:
    try:
        with _silenced():
            return to_int8(proto, pictures)
    except Exception as error:  # onnxruntime's errors share no base class
        raise CheckpointError(
            f"onnxruntime cannot quantise this model: {type(error).__name__}: {first_line(error)}"
        ) from error


def _write(proto: onnx.ModelProto, path: Path, metadata: dict) -> None:
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
    write_docs(proto, metadata)
    path.write_bytes(proto.SerializeToString())


def update_metadata(path: str | os.PathLike, **entries) -> None:
    """Replace entries of the metadata of the exported file at ``path``.

    Raises:
        ConfigError: the file cannot be written.
    """
    proto = onnx.load(path)
    known = {entry.key: entry.value for entry in proto.metadata_props}
    with atomic_write(path) as partial:
        _write(proto, partial, {**json.loads(known[METADATA_KEY]), **entries})


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence the log lines and warnings of torch.onnx and of onnxruntime's quantisation."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "onnxscript", "onnx_ir")]
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
