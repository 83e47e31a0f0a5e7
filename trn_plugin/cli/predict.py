"""Run an exported model on pictures or videos; write predictions as drawings, JSON lines or CSV.

Needs onnxruntime, NumPy and OpenCV, but neither torch nor MMEngine.

    trn-plugin predict model.onnx face.jpg
    trn-plugin predict model.onnx group.jpg --box 40 60 200 220
    trn-plugin predict model.onnx group.jpg --detector face_detection_yunet_2023mar.onnx
    trn-plugin predict model.onnx photos/ --out-dir predictions
    trn-plugin predict model.onnx --boxes faces.csv --jsonl faces.jsonl --csv found.csv
    trn-plugin predict model.onnx clip.mp4 --box 40 60 200 220 --provider cpu
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.prediction_job import PredictionJob
from trn_plugin.errors import ConfigError, first_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a file written by `trn-plugin export`")
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="pictures, videos, or folders of them"
    )
    box = parser.add_mutually_exclusive_group()
    box.add_argument(
        "--box",
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="the object's box in pixels, in one picture or in all frames of one video; "
        "default: the whole picture",
    )
    box.add_argument(
        "--boxes",
        metavar="CSV",
        help="table image,x0,y0,x1,y1 with a row for each object; IMAGE selects among its pictures",
    )
    box.add_argument(
        "--detector",
        metavar="FILE.onnx",
        help="find all faces with OpenCV's FaceDetectorYN and this model, YuNet: "
        "face_detection_yunet_2023mar.onnx of OpenCV's model zoo (MIT licence)",
    )
    parser.add_argument(
        "--out-dir", default="predictions", metavar="D", help="folder for drawings (%(default)s)"
    )
    parser.add_argument(
        "--jsonl", metavar="FILE", help="one JSON line for each object (D/predictions.jsonl)"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write a table, one row for each object")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py",
        help="Python file to run first, such as one that registers your own kind of task",
    )
    parser.add_argument("--no-draw", action="store_true", help="draw no pictures and no videos")
    parser.add_argument(
        "--show", nargs="+", metavar="TASK", help="draw and print only these tasks; files have all"
    )
    parser.add_argument(
        "--provider", choices=("cpu", "cuda"), help="default: CUDA if available, else the CPU"
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=16, metavar="N", help="objects (%(default)s)"
    )


def import_file(path: str) -> None:
    """Run a Python file, such as one that registers a kind of task."""
    try:
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        if spec is None:
            raise ConfigError("expected a .py file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickle look it up there
        spec.loader.exec_module(module)
    except Exception as error:  # a user's code may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        text = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"--import {path}: {text} (line {line})") from error


def main(args: argparse.Namespace) -> int:
    for path in args.imports:
        import_file(path)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return 2 if PredictionJob(args, pool).run() else 0
