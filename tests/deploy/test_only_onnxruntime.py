"""predict.py in an environment with onnxruntime, numpy and OpenCV alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from exported_faces import picture

TOOL = Path(__file__).resolve().parents[2] / "tools" / "predict.py"
NEEDED = ("onnxruntime", "numpy", "opencv-python-headless")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh environment with the three packages."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *NEEDED]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.slow
def test_pictures_and_videos_without_torch(python, exported, tmp_path):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*arguments):
        command = [str(python), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean)

    for absent in ("torch", "mmengine", "timm", "onnx", "sklearn"):
        assert run("-c", f"import {absent}").returncode, absent
    face = picture(120, 90)
    cv2.imwrite(str(tmp_path / "face.png"), face[..., ::-1])
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (90, 120)
    )
    for shift in range(4):
        writer.write(np.roll(face[..., ::-1], shift, axis=1))
    writer.release()

    code = f"import sys; sys.path.insert(0, {str(TOOL.parents[1])!r}); "
    code += "from trn_plugin.cli import main; main(sys.argv[1:])"
    assert run("-c", code, "predict", exported[0], "face.png").returncode == 0
    done = run("-c", code, "train", "config.py")
    assert done.returncode == 2
    assert done.stderr == "error: trn-plugin train needs mmengine, which is not installed here\n"

    done = run(TOOL, exported[0], "face.png", "clip.avi", "--csv", "table.csv")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "predictions/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line).get("frame") for line in lines] == [None, 0, 1, 2, 3]
    assert (tmp_path / "predictions/face_predicted.jpg").stat().st_size > 0
    assert (tmp_path / "predictions/clip_predicted.mp4").stat().st_size > 0
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 6

    from trn_plugin.deploy import TaskPredictor

    (here,) = TaskPredictor(exported[0]).predict([face])
    points = list(json.loads(lines[0])["tasks"]["landmarks"].values())
    np.testing.assert_allclose(points, here["landmarks"], atol=0.01)
