import numpy as np
import onnx
import onnxruntime
import pytest

from trn_plugin.deploy import TaskPredictor, runtime
from trn_plugin.deploy.session import open_session, providers_of
from trn_plugin.errors import CheckpointError, ConfigError, DataError


@pytest.fixture
def predictor(mean_colour_model):
    return TaskPredictor(mean_colour_model)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_kind_of_task_reads_as_documented(predictor):
    image = np.zeros((20, 40, 3), np.uint8)
    image[...] = (204, 102, 51)
    (found,) = predictor.predict([image])
    np.testing.assert_allclose(found["landmarks"], [[32, 8], [16, 4]], rtol=1e-5)
    assert found["pose"]["label"] == "bright"
    assert found["pose"]["index"] == 1
    np.testing.assert_allclose(found["pose"]["probabilities"], [0.2, 0.8], rtol=1e-5)
    assert found["smile"] == pytest.approx({"smiling": 0.4, "laughing": 0.2})


def test_landmarks_of_a_box_are_those_of_its_crop_plus_its_corner(predictor):
    image = picture(50, 60)
    boxes = [(10, 5, 30, 45), (0, 0, 60, 50)]
    in_box, in_whole = predictor.predict([image, image], boxes)
    (in_crop,) = predictor.predict([image[5:45, 10:30]])
    np.testing.assert_allclose(in_box["landmarks"], in_crop["landmarks"] + [10, 5], rtol=1e-6)
    (whole,) = predictor.predict([image])
    np.testing.assert_allclose(in_whole["landmarks"], whole["landmarks"])


def test_a_box_is_black_outside_the_picture(predictor):
    white = np.full((20, 20, 3), 255, np.uint8)
    (found,) = predictor.predict([white], [(-10, -20, 10, 20)])
    np.testing.assert_allclose(found["pose"]["probabilities"], [0.75, 0.25], rtol=1e-5)
    np.testing.assert_allclose(found["landmarks"], [[-5, -10]] * 2, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_results_keep_the_order_of_the_pictures(predictor, batch_size):
    sizes = [(8, 8), (9, 5), (8, 8), (8, 9), (9, 5), (8, 8), (8, 8)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    together = predictor.predict(images, batch_size=batch_size)
    for image, found in zip(images, together, strict=True):
        (alone,) = predictor.predict([image])
        np.testing.assert_allclose(found["landmarks"], alone["landmarks"], rtol=1e-6)
        assert found["smile"] == pytest.approx(alone["smile"])


def test_large_pictures_share_a_batch_only_up_to_its_pixels(predictor, monkeypatch):
    images = [picture(*size, seed) for seed, size in enumerate([(8, 8)] * 5 + [(40, 9)] * 2)]
    together = predictor.predict(images)
    run, shapes = predictor.run, []
    monkeypatch.setattr(predictor, "run", lambda images: shapes.append(images.shape) or run(images))
    monkeypatch.setattr(runtime, "LARGEST_BATCH", 2 * 8 * 8 + 63)
    apart = predictor.predict(images)
    alone = [(1, 40, 9)] * 2  # larger than the limit
    assert [shape[:3] for shape in shapes] == [(2, 8, 8), (2, 8, 8), (1, 8, 8), *alone]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one["landmarks"], other["landmarks"], rtol=1e-6)
        assert one["smile"] == pytest.approx(other["smile"])


def test_a_failure_of_onnxruntime_names_the_batch(predictor, monkeypatch):
    class Failing:
        def run(self, *arguments):
            raise onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException(
                "Failed to allocate memory\nfor requested buffer"
            )

    monkeypatch.setattr(predictor, "session", Failing())
    with pytest.raises(CheckpointError) as error:
        predictor.predict([picture(8, 9)] * 3, names=["a.png", "b.png", "c.png"], batch_size=2)
    message = str(error.value)
    assert message.startswith(f"a.png to b.png: {predictor.path}: onnxruntime cannot run it")
    assert "batch of (2, 8, 9, 3): Failed to allocate memory; " in message
    assert "--batch-size" in message
    assert "\n" not in message


def test_no_pictures_give_no_results(predictor):
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("image", "box", "message"),
    [
        (np.zeros((5, 5), np.uint8), None, r"expected a uint8 array \(H, W, 3\)"),
        (np.zeros((5, 5, 4), np.uint8), None, r"found uint8 \(5, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), None, r"found uint8 \(0, 5, 3\)"),
        (np.zeros((5, 5, 3), np.float32), None, "found float32"),
        (None, None, "found <class 'NoneType'>"),
        (np.zeros((5, 5, 3), np.uint8), (6, 0, 9, 5), "outside the picture of 5 x 5"),
        (np.zeros((5, 5, 3), np.uint8), (3, 3, 3, 4), "empty"),
        (np.zeros((5, 5, 3), np.uint8), (0.5, 0, 3, 4), "whole pixels"),
        (np.zeros((5, 5, 3), np.uint8), (0, 0, float("nan"), 4), "whole pixels"),
        (np.zeros((5, 5, 3), np.uint8), 5, "whole pixels"),
        (np.zeros((5, 5, 3), np.uint8), (0, 0, 10**6, 10**6), "has more than"),
    ],
)
def test_an_unusable_picture_or_box_is_named(predictor, image, box, message):
    with pytest.raises(DataError, match=message) as error:
        predictor.predict([image], [box], names=["its name"])
    assert "its name" in str(error.value)


def test_there_must_be_as_many_boxes_as_pictures(predictor):
    with pytest.raises(DataError, match="one box per picture, found 2 for 1"):
        predictor.predict([picture(4, 4)], [None, None])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not an ONNX file"),
        (b"not a model", "not an ONNX file"),
        (b"\x08\x07", "not an ONNX file"),
        ("truncated", "not an ONNX file"),
    ],
)
def test_a_missing_file_or_one_that_is_no_model_is_named(
    tmp_path, mean_colour_model, content, message
):
    path = tmp_path / "model.onnx"
    if content == "truncated":
        content = mean_colour_model.read_bytes()[:-200]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.onnx: {message}"):
        TaskPredictor(path)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "absolute"])
def test_weights_from_another_file_are_refused(mean_colour_model, tmp_path, location):
    if location == "absolute":
        location = str(tmp_path / "weights.bin")
    model = onnx.load(mean_colour_model)
    (tensor,) = (each for each in model.graph.initializer if each.name == "white")
    (tmp_path / location).write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    mean_colour_model.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="takes weights from another file"):
        open_session(mean_colour_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "not one written by trn-plugin export"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ({"format_version": 2}, "export format 2, this trn_plugin reads up to 1"),
        ({"input_size": None}, "damaged"),
        ({"tasks": {}}, "damaged"),
        ({"crop": 5}, "damaged"),
        ({"crop": {"box": "points", "text": "square"}}, "damaged"),
        ({"tasks": {"pose": {"kind": "colour"}}}, "expected input images"),
        ({"tasks": {"pose": {"kind": "class", "classes": ["a", "b"]}}}, "expected input images"),
    ],
)
def test_foreign_damaged_and_newer_metadata_is_refused(
    tmp_path, metadata, write_model, change, message
):
    content = {**metadata, **change} if isinstance(change, dict) else change
    path = write_model(tmp_path / "changed.onnx", content)
    with pytest.raises(CheckpointError, match=message) as error:
        TaskPredictor(path)
    assert "changed.onnx" in str(error.value)


@pytest.mark.parametrize(
    ("task", "key", "names", "message"),
    [
        ("pose", "classes", ["a"], r"1 classes of pose, .* \(N, 1\), found \(N, 2\)"),
        ("pose", "classes", ["a", "b", "c"], r"3 classes of pose"),
        ("smile", "names", ["a", "b", "c"], r"3 names of smile"),
        ("landmarks", "names", ["a"], r"1 points of landmarks, .* \(N, 1, 2\), found \(N, 2, 2\)"),
    ],
)
def test_as_many_names_as_outputs(tmp_path, metadata, write_model, task, key, names, message):
    metadata["tasks"] = {**metadata["tasks"], task: {**metadata["tasks"][task], key: names}}
    with pytest.raises(CheckpointError, match=rf"changed\.onnx: .*{message}"):
        TaskPredictor(write_model(tmp_path / "changed.onnx", metadata))


def test_an_unavailable_provider_is_named(mean_colour_model):
    with pytest.raises(ConfigError, match="no provider 'AbacusExecutionProvider'"):
        TaskPredictor(mean_colour_model, providers=["AbacusExecutionProvider"])


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture(params=["falls back", "raises"])
def broken_cuda(monkeypatch, request):
    """An onnxruntime with CUDA but no usable GPU: it raises an error, or falls back to the CPU."""
    create = onnxruntime.InferenceSession

    def session(path, options, providers, **others):
        if CUDA in providers and request.param == "raises":
            assert others == {"enable_fallback": 0}  # else onnxruntime prints and continues
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected\nmore")
        return create(path, options, providers=[CPU], **others)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return request.param


def test_requested_cuda_does_not_fall_back_to_the_cpu(mean_colour_model, broken_cuda):
    with pytest.raises(ConfigError, match=f"cannot start the provider '{CUDA}'") as error:
        TaskPredictor(mean_colour_model, providers_of("cuda"))
    assert "\n" not in str(error.value)
    assert ("no CUDA-capable device" in str(error.value)) == (broken_cuda == "raises")


def test_the_default_falls_back_to_the_cpu_without_cuda(mean_colour_model, broken_cuda, capfd):
    predictor = TaskPredictor(mean_colour_model)
    assert predictor.session.get_providers() == [CPU]
    assert len(predictor.predict([picture(8, 8)])) == 1
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_is_reported_as_such_with_cuda_too(tmp_path, broken_cuda):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"model\.onnx: not an ONNX file"):
        TaskPredictor(tmp_path / "model.onnx", providers_of("cuda"))
