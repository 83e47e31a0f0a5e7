"""Runs trn-plugin predict as a user does."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

TOOL = Path(__file__).resolve().parents[2] / "tools" / "predict.py"


TRAINING_ONLY = ("torch", "torchvision", "mmengine", "timm", "albumentations", "onnx", "sklearn")
TRAINING_ONLY += ("matplotlib", "scipy", "pandas", "PIL", "tqdm", "safetensors", "huggingface_hub")


def run(*arguments, cwd):
    """Run the tool in a subprocess that cannot import the training packages."""
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({TRAINING_ONLY}))\n"
        f"sys.argv = {[str(TOOL), *map(str, arguments)]}\n"
        f"runpy.run_path({str(TOOL)!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


def write_picture(path, color=(51, 102, 204), shape=(40, 60)):
    """A picture of one colour, given as blue, green, red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*shape, 3), color, np.uint8))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
