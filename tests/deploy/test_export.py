import copy
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported_faces import DATASET_TASKS, POINTS, POSES, SIZE, build, picture

from trn_plugin.datasets.transforms import CropResize, PackMultiTaskInputs
from trn_plugin.deploy import DeployModel, TaskPredictor, check_export, export_onnx
from trn_plugin.deploy import export as export_module
from trn_plugin.deploy.describe import describe_model
from trn_plugin.errors import CheckpointError, ConfigError
from trn_plugin.geometry import box_to_image


@pytest.fixture(scope="module")
def predictor(exported):
    return TaskPredictor(exported[0])


def test_export_writes_one_file_and_does_not_modify_the_model(model, exported):
    path, differences = exported
    assert list(differences) == ["landmarks", "pose", "smile"]
    assert all(0 < value <= 1e-4 for value in differences.values())
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert all(module.training for module in model.modules())
    fresh = build()
    for name, value in fresh.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize(
    "box", [(10, 20, 90, 100), (-13, -7, 70, 76), (0, 0, 150, 120), (100, 3, 171, 130)]
)
@pytest.mark.parametrize("grey", [False, True])
def test_predictions_of_a_box_are_those_of_testing(model, predictor, box, grey):
    image = picture(120, 150)
    if grey:
        image = np.repeat(image[..., :1], 3, axis=2)
    results = dict(img=image, box=box, tasks={}, gt={})
    for transform in (CropResize(SIZE), PackMultiTaskInputs()):
        results = transform(results)
    model.eval()
    with torch.no_grad():
        (expected,) = model.test_step({name: [value] for name, value in results.items()})
    (found,) = predictor.predict([image], [box])
    points = box_to_image(expected.pred["landmarks"].numpy(), box)
    side = min(box[2] - box[0], box[3] - box[1])
    assert np.abs(found["landmarks"] - points).max() < 1e-4 * side
    np.testing.assert_allclose(
        found["pose"]["probabilities"], expected.pred["pose"].numpy(), rtol=0, atol=1e-4
    )
    assert found["pose"]["label"] == POSES[int(expected.pred["pose"].argmax())]
    assert found["smile"]["smile"] == pytest.approx(float(expected.pred["smile"]), abs=1e-4)


def test_the_graph_is_one_file_with_dynamic_batch_and_size(exported):
    proto = onnx.load(exported[0], load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    external = onnx.TensorProto.EXTERNAL
    assert all(tensor.data_location != external for tensor in proto.graph.initializer)
    (images,) = proto.graph.input
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = images.type.tensor_type.shape.dim
    assert [dim.dim_param for dim in dims[:3]] == ["N", "H", "W"]
    assert dims[3].dim_value == 3
    assert [output.name for output in proto.graph.output] == ["landmarks", "pose", "smile"]
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert {entry.key for entry in proto.metadata_props} == {"trn_plugin"}
    content = exported[0].read_bytes()  # no path of this machine
    assert not any(word in content for word in (b"site-packages", b"trn_plugin/", b".py"))


def test_metadata_says_what_was_exported(model, predictor):
    metadata = predictor.metadata
    assert {name: task.info for name, task in predictor.tasks.items()} == {
        "landmarks": {"kind": "landmarks", "names": list(POINTS)},
        "pose": {"kind": "class", "classes": list(POSES)},
        "smile": {"kind": "attributes", "names": ["smile"]},
    }
    assert predictor.input_size == SIZE
    assert metadata["backbone"] == "test_resnet"
    assert metadata["metrics"] == {"landmarks/NME": 7.5}
    assert set(metadata["versions"]) == {"trn_plugin", "torch", "timm", "onnx", "onnxruntime"}
    preprocessor = model.data_preprocessor
    assert metadata["mean"] == pytest.approx(preprocessor.mean.flatten().tolist(), abs=1e-3)
    assert metadata["std"] == pytest.approx(preprocessor.std.flatten().tolist(), abs=1e-3)


def test_names_come_from_the_data_set_then_the_head_then_numbers(model):
    tasks = describe_model(model, SIZE)["tasks"]
    assert tasks["pose"] == {"kind": "class", "classes": list("01234")}
    named = copy.deepcopy(model)
    named.heads["pose"].names = tuple("abcde")
    assert describe_model(named, SIZE)["tasks"]["pose"]["classes"] == list("abcde")
    described = describe_model(named, SIZE, DATASET_TASKS)["tasks"]["pose"]
    assert described["classes"] == list(POSES)


def test_check_refuses_a_file_of_another_model(model, exported):
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        other.heads["smile"].fc.bias += 0.01
    with pytest.raises(CheckpointError, match=r"output smile differs from PyTorch by 0\.00"):
        check_export(exported[0], DeployModel(other, SIZE).eval())


def test_a_file_that_disagrees_is_removed(model, exported, tmp_path, monkeypatch):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.heads["pose"].fc.bias[0] = float("nan")
    proto = onnx.load(exported[0])
    monkeypatch.setattr(export_module, "_export", lambda *args: None)
    monkeypatch.setattr(export_module, "_cleaned", lambda *args: proto)
    with pytest.raises(CheckpointError, match=r"model\.onnx: output pose differs .* by nan"):
        export_onnx(broken, tmp_path / "model.onnx", SIZE, describe_model(broken, SIZE))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_the_earlier_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")

    def fail(*args, **kwargs):
        raise torch.onnx.OnnxExporterError("no such operator\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(CheckpointError, match=r"test_resnet: torch\.onnx cannot .*operator"):
        export_onnx(model, path, SIZE, describe_model(model, SIZE))
    assert path.read_bytes() == b"earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_single_task_learning_exports_one_task_without_the_others_weights(tmp_path):
    model = build(shared_stages=0)
    path = tmp_path / "pose.onnx"
    metadata = describe_model(model, SIZE)
    differences = export_onnx(model, path, SIZE, metadata, tasks=["pose"], opset=20)
    assert list(differences) == ["pose"]
    predictor = TaskPredictor(path)
    assert list(predictor.predict([picture(50, 40)])[0]) == ["pose"]
    whole = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert path.stat().st_size < 0.6 * whole
    opsets = {entry.domain: entry.version for entry in onnx.load(path).opset_import}
    assert opsets[""] == 20


def test_a_trunk_shared_by_all_exports_in_the_requested_order(tmp_path):
    model = build(shared_stages="all")
    path = tmp_path / "all.onnx"
    scores = {"landmarks/NME": 7.5, "pose/accuracy": 80.0, "relation/tau_gt": 0.8, "mAP": 5.0}
    metadata = describe_model(model, SIZE, metrics=scores)
    export_onnx(model, path, SIZE, metadata, tasks=["smile", "landmarks"])
    predictor = TaskPredictor(path)
    assert list(predictor.tasks) == ["smile", "landmarks"]
    assert predictor.metadata["metrics"] == {"landmarks/NME": 7.5, "mAP": 5.0}
    assert predictor.tasks["landmarks"].names == ("0", "1", "2", "3", "4")
    json.dumps(predictor.metadata)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "mobilenetv3_small_050", "vit_tiny_patch16_224"]
)
def test_other_backbones_agree_too(tmp_path, name):
    model = build(model_name=name, drop_rate=0.5)
    differences = export_onnx(model, tmp_path / "m.onnx", SIZE, describe_model(model, SIZE))
    assert max(differences.values()) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(precision="int4"), "precision: expected fp32, fp16, int8, found 'int4'"),
        (dict(tasks=["glasses"]), "expected some of landmarks, pose, smile, found 'glasses'"),
        (dict(tasks=[]), "found none"),
        (dict(opset=17), "opset: expected 18 to "),
        (dict(resize="cubic"), "resize: expected operator, exact, none"),
    ],
)
def test_wrong_arguments_are_named(model, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        export_onnx(model, tmp_path / "m.onnx", SIZE, describe_model(model, SIZE), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_named(model, tmp_path):
    metadata = describe_model(model, SIZE)
    with pytest.raises(ConfigError, match="is a folder"):
        export_onnx(model, tmp_path, SIZE, metadata)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        export_onnx(model, tmp_path / "file" / "m.onnx", SIZE, metadata)


def test_a_model_too_large_for_one_file_is_refused_first(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "LARGEST_FILE", 1000)
    monkeypatch.setattr(torch.onnx, "export", None)
    with pytest.raises(ConfigError, match="holds 2 GiB"):
        export_onnx(model, tmp_path / "m.onnx", SIZE, describe_model(model, SIZE))


def test_names_that_do_not_fit_the_head_are_refused(model):
    with pytest.raises(CheckpointError, match="task pose: the head is of kind 'class'"):
        describe_model(model, SIZE, {"pose": dict(kind="attributes", names=("a",))})
    with pytest.raises(CheckpointError, match="names 2 classes, the head has 5 outputs"):
        describe_model(model, SIZE, {"pose": dict(kind="class", classes=("a", "b"))})


def documented(path):
    """The doc strings of an exported file, and its metadata."""
    proto = onnx.load(path)
    (entry,) = proto.metadata_props
    values = [*proto.graph.input, *proto.graph.output]
    return (
        {value.name: value.doc_string for value in values},
        proto.doc_string,
        json.loads(entry.value),
    )


def test_doc_strings_describe_input_graph_and_outputs(exported):
    docs, about, metadata = documented(exported[0])
    given = metadata["input"]
    assert given["shape"] == ["N", "H", "W", 3]
    assert (given["layout"], given["colours"], given["type"]) == ("NHWC", "RGB", "uint8")
    assert "resize" in metadata["inside"][0]
    assert "normalisation" in metadata["inside"][1]
    assert "pixels" in docs["landmarks"]
    assert "probability" in docs["pose"]
    assert all(name in docs["pose"] for name in POSES)
    for part in ("RGB", "NHWC", "0 to 255"):
        assert part in docs["images"]
        assert part in about
    session = onnxruntime.InferenceSession(exported[0])
    for value in session.get_outputs():
        assert value.shape[1:] == metadata["outputs"][value.name]["shape"][1:]
        assert len(metadata["outputs"][value.name]["names"]) == value.shape[1]


@pytest.mark.parametrize("resize", ["exact", "none"])
def test_every_way_to_resize_agrees_with_the_operator(model, exported, tmp_path, resize):
    path = tmp_path / "model.onnx"
    differences = export_onnx(model, path, SIZE, describe_model(model, SIZE), resize=resize)
    assert max(differences.values()) < 1e-4
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "Resize" not in operators
    reference, predictor = TaskPredictor(str(exported[0])), TaskPredictor(str(path))
    for shape in [SIZE, (90, 70), (31, 200)]:
        image = picture(*shape)
        (expected,), (found,) = reference.predict(image), predictor.predict(image)
        # "none": the caller rounds what it resizes to whole grey levels
        bound = 1e-4 if resize == "exact" or shape == SIZE else 2e-2
        distances = np.abs(found["landmarks"] - expected["landmarks"]) / np.array(shape[::-1])
        assert distances.max() < bound
        np.testing.assert_allclose(
            found["pose"]["probabilities"], expected["pose"]["probabilities"], atol=bound
        )
    metadata = documented(path)[2]
    height, width = SIZE
    sides = ["H", "W"] if resize == "exact" else [height, width]
    assert metadata["input"]["shape"] == ["N", *sides, 3]
    assert ("resize" in " ".join(metadata["inside"])) == (resize == "exact")
