"""The options of the exporter: reduced precision, float input, features."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_faces import DATASET_TASKS, SIZE, build, picture

from trn_plugin.deploy import DeployModel, TaskPredictor, export_onnx
from trn_plugin.deploy.describe import describe_model
from trn_plugin.deploy.export import update_metadata
from trn_plugin.deploy.precision import to_int8
from trn_plugin.errors import ConfigError

KINDS = ("plain", "fp16", "int8", "rich")
SIZE_HEAD = dict(type="RegressionHead", num_values=2, mean=[4e5, 0.01], std=[1e5, 0.001])


@pytest.fixture(scope="module")
def sized():
    """The model with values in units far from 1."""
    return build(heads=dict(size=SIZE_HEAD))


@pytest.fixture(scope="module")
def files(model, sized, exported, tmp_path_factory):
    """An exported file for each option."""
    folder = tmp_path_factory.mktemp("precision")
    names = {**DATASET_TASKS, "size": dict(kind="values", names=("gram", "metre"))}
    made = {"plain": exported[0]} | {name: folder / f"{name}.onnx" for name in KINDS[1:]}
    pictures = [picture(60, 50, seed) for seed in range(100, 110)]
    made["int8"].write_bytes(to_int8(onnx.load(made["plain"]), pictures).SerializeToString())
    metadata = describe_model(sized, SIZE, names)
    made["told"] = export_onnx(sized, made["fp16"], SIZE, metadata, precision="fp16")
    options = dict(float_input=True, features=True, tasks=["pose", "landmarks"])
    export_onnx(model, made["rich"], SIZE, describe_model(model, SIZE, names), **options)
    return made


def scale_of(task):
    return {"landmarks": np.array([50, 60]), "size": np.array([1e5, 0.001])}.get(task, 1)


@pytest.mark.parametrize(("name", "allowed"), [("fp16", 0.01), ("int8", 0.1)])
def test_reduced_precision_stays_close(model, sized, files, name, allowed):
    predictor = TaskPredictor(files[name])
    deployed = DeployModel(sized if name == "fp16" else model, SIZE).eval()
    pictures = np.stack([picture(60, 50, seed) for seed in range(4)])
    with torch.no_grad():
        expected = dict(zip(deployed.tasks, deployed(torch.from_numpy(pictures)), strict=True))
    for task, found in predictor.run(pictures).items():
        assert found.dtype == np.float32
        difference = np.abs(found - expected[task].numpy()) / scale_of(task)
        assert 0 < difference.max() < allowed
        if name == "fp16":
            assert predictor.metadata["precision"] == "fp16"
            assert 0 < files["told"][task] < allowed
    assert ("size" in predictor.tasks) == (name == "fp16")


def test_every_layer_has_the_requested_precision(sized, files):
    weights = {
        name: {
            tensor.data_type
            for tensor in onnx.load(files[name]).graph.initializer
            if len(tensor.dims) == 4 and tensor.dims[0] > 1
        }
        for name in KINDS
    }
    types = onnx.TensorProto
    assert weights["plain"] == {types.FLOAT}
    assert weights["fp16"] == {types.FLOAT16}
    assert weights["int8"] == {types.INT8}
    in_float32 = 4 * sum(parameter.numel() for parameter in sized.parameters())
    size = {name: files[name].stat().st_size for name in KINDS}
    assert size["fp16"] < 0.6 * in_float32
    assert size["int8"] < 0.4 * size["plain"]


def test_a_reduced_export_does_not_modify_the_model(sized, files):
    fresh = build(heads=dict(size=SIZE_HEAD)).state_dict()
    assert sized.state_dict().keys() == fresh.keys()
    for name, value in sized.state_dict().items():
        assert value.dtype == fresh[name].dtype
        assert torch.equal(value, fresh[name]), name


def test_float_and_uint8_pictures_agree(files):
    path = files["rich"]
    (given,) = onnx.load(path).graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    images = [picture(60, 50), picture(33, 70)]
    plain = TaskPredictor(files["plain"]).predict(images)
    for found, expected in zip(TaskPredictor(path).predict(images), plain, strict=True):
        np.testing.assert_allclose(found["landmarks"], expected["landmarks"], atol=1e-3)
        assert found["pose"]["label"] == expected["pose"]["label"]


def test_features_are_what_testing_measures(model, files):
    predictor = TaskPredictor(files["rich"])
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


def test_metadata_can_be_updated(files, tmp_path):
    path = Path(shutil.copy(files["plain"], tmp_path))
    image = picture(60, 50)
    before = TaskPredictor(path)
    update_metadata(path, metrics={"pose/accuracy": 12.5}, metrics_of="this file")
    after = TaskPredictor(path)
    assert after.metadata["metrics"] == {"pose/accuracy": 12.5}
    changed = {"metrics": {"pose/accuracy": 12.5}, "metrics_of": "this file"}
    assert after.metadata == {**before.metadata, **changed}
    assert [file.name for file in path.parent.glob(".*")] == []
    for task, values in before.run(image[None]).items():
        np.testing.assert_array_equal(after.run(image[None])[task], values)


def test_a_quantised_result_does_not_depend_on_its_batch(files):
    predictor = TaskPredictor(files["int8"])
    dark, bright = picture(60, 50) // 4, 255 - picture(60, 50, 1) // 4
    together = predictor.run(np.stack([dark, bright]))
    for row, image in enumerate((dark, bright)):
        for task, alone in predictor.run(image[None]).items():
            np.testing.assert_allclose(together[task][row], alone[0], rtol=1e-5)


def test_int8_needs_pictures_of_any_size_to_calibrate_on(model, tmp_path):
    path = tmp_path / "small.onnx"
    metadata = describe_model(model, SIZE, DATASET_TASKS)
    options = dict(precision="int8", resize="none", float_input=True)
    with pytest.raises(ConfigError, match="pictures to calibrate on, found none"):
        export_onnx(model, path, SIZE, metadata, **options)
    assert not path.exists()
    pictures = [picture(60, 50 + seed, seed) for seed in range(4)]
    told = export_onnx(model, path, SIZE, metadata, calibration=pictures, **options)
    assert 0 < max(told.values()) < 0.1
