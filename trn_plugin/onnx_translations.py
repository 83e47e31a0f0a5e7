"""ONNX translations of operators of timm's models that torch.onnx cannot translate."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["onnx_translations"]


def onnx_translations() -> dict[Callable, Callable]:
    """The ``custom_translation_table`` of ``torch.onnx.export``.

    Attention with more than four axes, as in Hiera, is decomposed; torch.onnx only takes four.
    """
    import torch

    return {torch.ops.aten.scaled_dot_product_attention.default: _attention}


def _attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
):
    from onnxscript import opset18 as op
    from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

    axes = len(query.shape)
    if axes == 4 or is_causal or enable_gqa or attn_mask is not None:
        grouped = {"enable_gqa": True} if enable_gqa else {}
        return aten_scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, **grouped
        )
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    factor = op.CastLike(op.Constant(value_float=float(factor)), query)
    swapped = op.Transpose(key, perm=[*range(axes - 2), axes - 1, axes - 2])
    scores = op.MatMul(op.Mul(query, factor), swapped)
    return op.MatMul(op.Softmax(scores, axis=-1), value)
