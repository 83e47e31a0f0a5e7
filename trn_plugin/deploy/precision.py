"""Smaller numbers for a network: float16, or int8 by static quantisation."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from trn_plugin.deploy.metadata import INPUT_NAME
from trn_plugin.deploy.resize import resized

__all__ = ["PRECISIONS", "in_float16", "to_int8"]

PRECISIONS = ("fp32", "fp16", "int8")
LAYERS = ("Conv", "MatMul", "Gemm")
BETWEEN = ("Add", "AveragePool", "GlobalAveragePool", "MaxPool", "Relu")
"""In 8 bits too where all they take comes from convolutions: numbers then stay in 8 bits."""


def in_float16(model: nn.Module) -> nn.Module:
    """A copy of a ``MultiTaskModel`` whose backbone is in float16.

    Pictures are still resized and normalised, and the heads computed, in float32.
    """
    halved = copy.deepcopy(model)
    halved.backbone.half()
    return halved


def to_int8(proto: onnx.ModelProto, pictures: Sequence[np.ndarray]) -> onnx.ModelProto:
    """A copy of an exported graph with convolutions and matrix products in 8 bits.

    Weights are quantised channel by channel; activations by the smallest and largest value that
    each takes on ``pictures``.

    Args:
        proto: the graph in fp32.
        pictures: (H, W, 3) uint8 RGB, as the model will be given.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    del plain.graph.value_info[:]  # the exporter's shapes do not survive a transposed weight
    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        try:
            root.setLevel(logging.ERROR)  # it recommends a preparation that the exporter has done
            quantize_static(
                plain,
                out,
                _reader(proto, pictures),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*LAYERS, *BETWEEN],
                nodes_to_quantize=_quantisable(plain.graph),
                per_channel=True,
                # 7 bits: products of pairs of 8-bit numbers overflow on x86 CPUs without VNNI
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            root.setLevel(level)
        return onnx.load(out)


def _quantisable(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes to quantise: layers with constant weights, and what lies between."""
    constants = {tensor.name for tensor in graph.initializer}
    names, convolved = [], set()
    for node in graph.node:
        between = node.op_type in BETWEEN and all(value in convolved for value in node.input)
        if between or (node.op_type in LAYERS and node.input[1] in constants):
            names.append(node.name)
        if between or node.op_type == "Conv":
            convolved.update(node.output)
    return names


def _reader(proto: onnx.ModelProto, pictures: Sequence[np.ndarray]):
    """What onnxruntime calibrates with: the pictures one by one, as the graph takes them."""
    from onnxruntime.quantization import CalibrationDataReader

    given = proto.graph.input[0].type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(given.elem_type)
    sides = tuple(axis.dim_value for axis in given.shape.dim[1:3])  # 0 where they are free

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            for picture in self.left:
                batch = resized(picture[None], sides) if all(sides) else picture[None]
                return {INPUT_NAME: batch.astype(dtype)}
            return None

    return Pictures()
