"""Reduced precision: float16, or int8 by static quantisation."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn

from trn_plugin.deploy.cutting import resized
from trn_plugin.deploy.metadata import INPUT_NAME

__all__ = ["PRECISIONS", "in_float16", "to_int8"]

PRECISIONS = ("fp32", "fp16", "int8")
LAYERS = ("Conv", "MatMul", "Gemm")
BETWEEN = ("Add", "AveragePool", "GlobalAveragePool", "MaxPool", "Relu")
"""Also quantised where all inputs come from convolutions, so that activations stay in int8."""


def in_float16(model: nn.Module) -> nn.Module:
    """A copy of a ``MultiTaskModel`` whose backbone is in float16.

    Resizing, normalisation and heads stay in float32.
    """
    halved = copy.deepcopy(model)
    halved.backbone.half()
    return halved


def to_int8(proto: onnx.ModelProto, pictures: Sequence[np.ndarray]) -> onnx.ModelProto:
    """A copy of an exported graph with convolutions and matrix products in int8.

    Weights are quantised per channel, activations by their minimum and maximum on ``pictures``.

    Args:
        proto: the graph in fp32.
        pictures: (H, W, 3) uint8 RGB, representative of the model's inputs.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    del plain.graph.value_info[:]  # shapes become wrong when weights are transposed
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_static(
            plain,
            out,
            _CalibrationPictures(proto, pictures),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*LAYERS, *BETWEEN],
            nodes_to_quantize=_quantisable(plain.graph),
            per_channel=True,
            # 7-bit weights: 8-bit dot products overflow on x86 CPUs without VNNI
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(out)


def _quantisable(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes to quantise: layers with constant weights, and nodes between them."""
    constants = {tensor.name for tensor in graph.initializer}
    names, convolved = [], set()
    for node in graph.node:
        between = node.op_type in BETWEEN and all(value in convolved for value in node.input)
        if between or (node.op_type in LAYERS and node.input[1] in constants):
            names.append(node.name)
        if between or node.op_type == "Conv":
            convolved.update(node.output)
    return names


class _CalibrationPictures(CalibrationDataReader):
    """Gives the pictures one by one in the graph's input format."""

    def __init__(self, proto: onnx.ModelProto, pictures: Sequence[np.ndarray]) -> None:
        given = proto.graph.input[0].type.tensor_type
        self.dtype = onnx.helper.tensor_dtype_to_np_dtype(given.elem_type)
        self.sides = tuple(axis.dim_value for axis in given.shape.dim[1:3])  # 0 if dynamic
        self.remaining = iter(pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        picture = next(self.remaining, None)
        if picture is None:
            return None
        batch = resized(picture[None], self.sides) if all(self.sides) else picture[None]
        return {INPUT_NAME: batch.astype(self.dtype)}
