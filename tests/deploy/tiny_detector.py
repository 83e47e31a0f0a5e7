"""A model with the inputs and outputs of YuNet that finds bright squares of 32 pixels."""

import numpy as np
import onnx
from onnx import TensorProto, helper

STRIDES = (8, 16, 32)


def write_tiny_detector(path):
    """Cells of stride 32 that are white give a box of 32 pixels; the other strides give none.

    Its five points form a square of half the box's side around the middle.
    """
    nodes, outputs, constants = [], [], []

    def constant(name, value):
        constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    constant("white", np.float32(255))
    # In units of the stride, from the cell's corner: the points, and the middle of the box.
    corners = np.float32([0.25, 0.25, 0.75, 0.25, 0.5, 0.5, 0.25, 0.75, 0.75, 0.75])
    middle = np.float32([0.5, 0.5, 0, 0])  # and the logarithm of its sides

    def node(kind, result, *given, **attributes):
        nodes.append(helper.make_node(kind, list(given), [result], **attributes))

    for s in STRIDES:
        node("AveragePool", f"mean_{s}", "input", kernel_shape=[s, s], strides=[s, s])
        node("ReduceMean", f"grey_{s}", f"mean_{s}", axes=[1])
        node("Div", f"unit_{s}", f"grey_{s}", "white")
        node("Reshape", f"flat_{s}", f"unit_{s}", constant(f"shape_{s}", [1, -1, 1]))
        node("Mul", f"cls_{s}", f"flat_{s}", constant(f"on_{s}", np.float32(s == 32)))
        node("Identity", f"obj_{s}", f"cls_{s}")
        node("Mul", f"zeros_{s}", f"flat_{s}", constant(f"zero_{s}", np.float32(0)))
        node("Add", f"bbox_{s}", f"zeros_{s}", constant(f"middle_{s}", middle[None, None]))
        node("Add", f"kps_{s}", f"zeros_{s}", constant(f"corners_{s}", corners[None, None]))
    for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in STRIDES:
            name = f"{kind}_{stride}"
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, width]))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])]
    graph = helper.make_graph(nodes, "tiny_detector", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
