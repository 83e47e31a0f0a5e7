import copy
import json

import numpy as np
import onnx
import pytest
from exported_faces import DATASET_TASKS, SIZE, build
from onnx import TensorProto, helper

from trn_plugin.deploy import export_onnx
from trn_plugin.deploy.describe import describe_model

TASKS = {
    "landmarks": {"kind": "landmarks", "names": ["left", "right"]},
    "pose": {"kind": "class", "classes": ["dark", "bright"]},
    "smile": {"kind": "attributes", "names": ["smiling", "laughing"]},
}


def write_mean_colour_model(path, metadata):
    """Write a graph whose outputs all follow from the mean colour of a picture."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "spatial"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["rgb"]),
        helper.make_node("Shape", ["images"], ["height_width"], start=1, end=3),
        helper.make_node("Gather", ["height_width", "reverse"], ["sides_int"], axis=0),
        helper.make_node("Cast", ["sides_int"], ["sides"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["rgb", "red_green_green_blue"], ["flat"], axis=1),
        helper.make_node("Reshape", ["flat", "points"], ["fractions"]),
        helper.make_node("Mul", ["fractions", "sides"], ["landmarks"]),
        helper.make_node("Gather", ["rgb", "red"], ["bright"], axis=1),
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Concat", ["dark", "bright"], ["pose"], axis=1),
        helper.make_node("Gather", ["rgb", "green_blue"], ["smile"], axis=1),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array(value), name)
        for name, value in dict(
            spatial=[1, 2],
            white=np.float32(255),
            reverse=[1, 0],
            red_green_green_blue=[0, 1, 1, 2],
            points=[-1, 2, 2],
            red=[0],
            one=np.float32(1),
            green_blue=[1, 2],
        ).items()
    ]
    graph = helper.make_graph(
        nodes,
        "mean_colour",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("landmarks", TensorProto.FLOAT, ["N", 2, 2]),
            helper.make_tensor_value_info("pose", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("smile", TensorProto.FLOAT, ["N", 2]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        helper.set_model_props(model, {"trn_plugin": text})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def metadata():
    return {"format_version": 1, "tasks": copy.deepcopy(TASKS), "input_size": [8, 8]}


@pytest.fixture
def mean_colour_model(tmp_path, metadata):
    return write_mean_colour_model(tmp_path / "mean_colour.onnx", metadata)


@pytest.fixture(scope="session")
def write_model():
    return write_mean_colour_model


@pytest.fixture(scope="session")
def model():
    return build()


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    model.train()
    metadata = describe_model(model, SIZE, DATASET_TASKS, {"landmarks/NME": 7.5})
    differences = export_onnx(model, path, SIZE, metadata)
    return path, differences
