"""The options of the exporter: smaller numbers, float pictures, features."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_faces import DATASET_TASKS, SIZE, build, picture

from trn_plugin.deploy import DeployModel, FaceTaskPredictor, export_onnx
from trn_plugin.deploy.export import describe_model, update_metadata

OPTIONS = {
    "fp16": dict(precision="fp16"),
    "int8": dict(precision="int8"),
    "rich": dict(float_input=True, features=True, tasks=["pose", "landmarks"]),
}


@pytest.fixture(scope="module")
def files(model, exported, tmp_path_factory):
    """By name of the options: the file and the differences told."""
    folder = tmp_path_factory.mktemp("precision")
    metadata = describe_model(model, SIZE, DATASET_TASKS)
    return {"plain": exported} | {
        name: (
            folder / f"{name}.onnx",
            export_onnx(model, folder / f"{name}.onnx", SIZE, metadata, **options),
        )
        for name, options in OPTIONS.items()
    }


@pytest.mark.parametrize(("name", "allowed"), [("fp16", 0.01), ("int8", 0.1)])
def test_smaller_numbers_stay_near_and_say_how_near(model, files, name, allowed):
    path, told = files[name]
    predictor, deployed = FaceTaskPredictor(path), DeployModel(model, SIZE).eval()
    assert predictor.metadata["precision"] == name
    pictures = np.stack([picture(60, 50, seed) for seed in range(4)])
    with torch.no_grad():
        expected = dict(zip(deployed.tasks, deployed(torch.from_numpy(pictures)), strict=True))
    for task, found in predictor.run(pictures).items():
        assert found.dtype == np.float32
        scale = np.array([50, 60]) if task == "landmarks" else 1
        difference = np.abs(found - expected[task].numpy()) / scale
        assert 0 < difference.max() < allowed
        assert 0 < told[task] < allowed


def test_values_are_in_the_labels_unit_at_any_precision(tmp_path):
    size = dict(type="RegressionHead", num_values=2, mean=[4e5, 0.01], std=[1e5, 0.001])
    model = build(heads=dict(size=size))
    metadata = describe_model(model, SIZE, {"size": dict(kind="values", names=("gram", "metre"))})
    path = tmp_path / "size.onnx"
    told = export_onnx(model, path, SIZE, metadata, tasks=["size"], precision="fp16")
    image = picture(60, 50)
    with torch.no_grad():
        (expected,) = DeployModel(model, SIZE, ["size"]).eval()(torch.from_numpy(image[None]))
    found = FaceTaskPredictor(path).predict([image])[0]["size"]
    difference = np.array([found["gram"], found["metre"]]) - expected[0].numpy()
    assert 0 < np.abs(difference / [1e5, 0.001]).max() < 0.01
    assert 0 < told["size"] < 0.01


def test_smaller_numbers_make_smaller_files(files):
    size = {name: path.stat().st_size for name, (path, _) in files.items()}
    assert size["fp16"] < 0.6 * size["plain"]
    assert size["int8"] < 0.4 * size["plain"]


def test_every_layer_is_in_the_precision_asked_for(files):
    weights = {
        name: {
            tensor.data_type
            for tensor in onnx.load(path).graph.initializer
            if len(tensor.dims) == 4 and tensor.dims[0] > 1
        }
        for name, (path, _) in files.items()
    }
    types = onnx.TensorProto
    assert weights["plain"] == {types.FLOAT}
    assert weights["fp16"] == {types.FLOAT16}
    assert weights["int8"] == {types.UINT8}


def test_a_model_is_not_changed_by_a_smaller_export(model, files):
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, value in build().state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_float_pictures_give_what_bytes_give(files):
    path, _ = files["rich"]
    (given,) = onnx.load(path).graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    images = [picture(60, 50), picture(33, 70)]
    plain = FaceTaskPredictor(files["plain"][0]).predict(images)
    for found, expected in zip(FaceTaskPredictor(path).predict(images), plain, strict=True):
        np.testing.assert_allclose(found["landmarks"], expected["landmarks"], atol=1e-3)
        assert found["pose"]["label"] == expected["pose"]["label"]


def test_features_are_what_testing_measures(model, files):
    predictor = FaceTaskPredictor(files["rich"][0])
    assert list(predictor.tasks) == ["pose", "landmarks"]
    image = picture(60, 50)
    found = predictor.run(image[None])
    deployed = DeployModel(model, SIZE).eval()
    with torch.no_grad():
        (sample,) = deployed.model.predict(deployed.inputs(torch.from_numpy(image[None])))
    for level in ("hidden", "output"):
        for task in predictor.tasks:
            expected = getattr(sample, level)[task].numpy()
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found[f"{level}/{task}"][0], expected, atol=1e-4 * scale)
    assert set(predictor.predict([image])[0]) == {"pose", "landmarks"}


def test_what_a_file_says_can_be_completed(files, tmp_path):
    path = Path(shutil.copy(files["plain"][0], tmp_path))
    image = picture(60, 50)
    before = FaceTaskPredictor(path)
    update_metadata(path, metrics={"pose/accuracy": 12.5}, metrics_of="this file")
    after = FaceTaskPredictor(path)
    assert after.metadata["metrics"] == {"pose/accuracy": 12.5}
    changed = {"metrics": {"pose/accuracy": 12.5}, "metrics_of": "this file"}
    assert after.metadata == {**before.metadata, **changed}
    assert [file.name for file in path.parent.glob(".*")] == []
    for task, values in before.run(image[None]).items():
        np.testing.assert_array_equal(after.run(image[None])[task], values)
