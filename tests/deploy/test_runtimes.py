"""Exported files in OpenVINO, and the model as torch.export sees it."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from exported_faces import DATASET_TASKS, SIZE, picture

from trn_plugin.deploy import DeployModel, export_onnx
from trn_plugin.deploy.describe import describe_model

PAGE = Path(__file__).parents[2] / "docs/guides/runtimes.md"
SHAPES = (SIZE, (128, 128), (200, 300))


@torch.no_grad()
def in_torch(network, pictures):
    return [output.numpy() for output in network(torch.from_numpy(pictures))]


def largest_difference(found, expected, shape):
    """Relative to the side for landmarks, the first output; absolute for the others."""
    scales = [np.array(shape[::-1]), 1, 1]
    return max(
        (np.abs(a - b) / scale).max() for a, b, scale in zip(found, expected, scales, strict=True)
    )


@pytest.mark.parametrize("resize", ["operator", "exact", "none"])
def test_openvino_computes_the_same(model, tmp_path, resize):
    reason = "OpenVINO is not installed (pip install openvino)"
    openvino = pytest.importorskip("openvino", reason=reason)
    path = tmp_path / "model.onnx"
    export_onnx(model, path, SIZE, describe_model(model, SIZE, DATASET_TASKS), resize=resize)
    deployed = DeployModel(model, SIZE, resize=resize).eval()
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in SHAPES if resize == "exact" else SHAPES[:1]:  # it shrinks without antialiasing
        pictures = np.stack([picture(*shape, seed) for seed in range(2)])
        found = compiled(pictures)
        found = [found[name] for name in deployed.outputs]
        assert largest_difference(found, in_torch(deployed, pictures), shape) < 1e-4


def test_the_documented_lines_run_in_openvino(model, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed (pip install openvino)")
    monkeypatch.chdir(tmp_path)
    metadata = describe_model(model, SIZE, DATASET_TASKS)
    export_onnx(model, "exact.onnx", SIZE, metadata, resize="exact")
    cv2.imwrite("photo.jpg", picture(100, 90))
    section = PAGE.read_text().split("\n## OpenVINO\n")[1]
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    assert names["landmarks"].shape == (1, 5, 2)


@pytest.mark.parametrize("resize", ["operator", "exact", "none"])
def test_torch_export_computes_the_same(model, resize):
    deployed = DeployModel(model, SIZE, resize=resize).eval()
    height, width = SIZE
    extra = 0 if resize == "none" else 13
    letters = "N" if resize == "none" else "NHW"
    sides = {axis: torch.export.Dim(letter) for axis, letter in enumerate(letters)}
    example = torch.zeros(2, height + extra, width + 2 * extra, 3, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(deployed, (example,), dynamic_shapes=(sides,)).module()
    for shape in SHAPES if resize != "none" else SHAPES[:1]:
        pictures = np.stack([picture(*shape, seed) for seed in range(3)])
        found, expected = in_torch(program, pictures), in_torch(deployed, pictures)
        assert largest_difference(found, expected, shape) < 1e-5
