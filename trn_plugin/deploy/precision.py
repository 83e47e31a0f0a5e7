"""Smaller numbers for a network: float16, or int8 by dynamic quantisation."""

from __future__ import annotations

import copy
import logging
import tempfile
from pathlib import Path

import onnx
from torch import nn

__all__ = ["PRECISIONS", "in_float16", "to_int8"]

PRECISIONS = ("fp32", "fp16", "int8")
LAYERS = ("Conv", "MatMul", "Gemm")


def in_float16(model: nn.Module) -> nn.Module:
    """A copy of a ``MultiTaskModel`` whose backbone is in float16.

    Pictures are still resized and normalised, and the heads computed, in float32.
    """
    halved = copy.deepcopy(model)
    halved.backbone.half()
    return halved


def to_int8(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exported graph with convolutions and matrix products in 8 bits.

    Weights are quantised here, channel by channel; activations while the model runs, by the
    smallest and largest value in the whole batch, so that a picture's result depends a little on
    the others in its batch.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    del plain.graph.value_info[:]  # the exporter's shapes do not survive a transposed weight
    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        try:
            root.setLevel(logging.ERROR)  # it recommends a preparation that the exporter has done
            # unsigned weights: onnxruntime has no convolution of signed ones on every CPU
            quantize_dynamic(
                plain,
                out,
                op_types_to_quantize=list(LAYERS),
                per_channel=True,
                weight_type=QuantType.QUInt8,
            )
        finally:
            root.setLevel(level)
        return onnx.load(out)
