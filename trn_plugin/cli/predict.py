"""Run an exported model on pictures or videos: draw what it finds, write it as JSON lines or CSV.

Needs onnxruntime, numpy and OpenCV; neither torch nor MMEngine.

    trn-plugin predict model.onnx face.jpg
    trn-plugin predict model.onnx group.jpg --box 40 60 200 220
    trn-plugin predict model.onnx photos/ --out-dir predictions
    trn-plugin predict model.onnx --boxes faces.csv --jsonl faces.jsonl --csv found.csv
    trn-plugin predict model.onnx clip.mp4 --box 40 60 200 220 --provider cpu
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from trn_plugin.cli.parsing import positive_int
from trn_plugin.deploy import TaskPredictor, draw_faces
from trn_plugin.deploy.drawing import summary_lines
from trn_plugin.deploy.inputs import find_pictures, output_paths, read_boxes, whole_pixels
from trn_plugin.deploy.records import Results, as_json
from trn_plugin.deploy.runtime import cut_face, providers_of
from trn_plugin.deploy.video import VIDEO_SUFFIXES, VideoFile, VideoOutput
from trn_plugin.errors import ConfigError, DataError, first_line
from trn_plugin.geometry import read_image

JPEG_QUALITY = 95


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
        help="the face in the one picture given, or in all frames of the one video, in pixels; "
        "default: the whole picture",
    )
    box.add_argument(
        "--boxes",
        metavar="CSV",
        help="faces as rows of image,x0,y0,x1,y1 under that header, whose order the results keep; "
        "without IMAGE, all of them; a row that cannot be read or whose picture is missing stops "
        "the run before it begins, a box outside its picture or a picture that cannot be read "
        "costs only its own faces",
    )
    parser.add_argument(
        "--out-dir", default="predictions", metavar="D", help="for what is drawn (%(default)s)"
    )
    parser.add_argument(
        "--jsonl",
        metavar="FILE",
        help="one line a face (default: D/predictions.jsonl); an earlier one is replaced when the "
        "run is at its end",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE.py",
        help="Python file that registers your own kind of task, run before the model is loaded",
    )
    parser.add_argument("--csv", metavar="FILE", help="write a table too, one row a face")
    parser.add_argument(
        "--provider",
        choices=("cpu", "cuda"),
        help="what runs the model; default CUDA where onnxruntime has it, then the CPU",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=16,
        metavar="N",
        help="faces of one size at once (%(default)s), fewer if they have over 32 million pixels",
    )


def split_inputs(args: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """The pictures and the videos named."""
    if not args.images and not args.boxes:
        raise DataError("expected a picture, a folder of pictures, a video or --boxes CSV")
    folder = Path(args.out_dir)
    pictures: dict[Path, None] = {}
    videos: dict[Path, None] = {}
    for path in map(Path, args.images):
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
            if not path.is_file():
                raise DataError(f"{path}: no such video")
            videos[path] = None
            continue
        inside = videos_in(path, folder)
        videos.update(dict.fromkeys(inside))
        try:
            pictures.update(dict.fromkeys(find_pictures([str(path)], exclude=folder)))
        except DataError:
            if not inside:
                raise
    if args.boxes and videos:
        raise DataError(f"--boxes: is for pictures; the face in {next(iter(videos))} is --box")
    if args.box and len(pictures) + len(videos) != 1:
        found = f"{len(pictures)} pictures and {len(videos)} videos" if videos else len(pictures)
        raise DataError(f"--box: expected one picture, found {found}; see --boxes")
    return list(pictures), list(videos)


def videos_in(path: Path, exclude: Path) -> list[Path]:
    """The videos in a folder and its subfolders, in order, less those of earlier results."""
    return sorted(
        file
        for file in (path.rglob("*") if path.is_dir() else ())
        if file.suffix.lower() in VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and exclude.resolve() not in file.resolve().parents
    )


class Face(NamedTuple):
    """A face to look at; ``order``: its place among the results, ``name``: what messages say."""

    order: int
    box: tuple[int, int, int, int] | None
    name: str


def faces_by_picture(args: argparse.Namespace, pictures: list[Path]) -> dict[Path, list[Face]]:
    """The faces of each picture."""
    if not args.boxes:
        box = box_of(args)
        return {path: [Face(order, box, str(path))] for order, path in enumerate(pictures)}
    rows = read_boxes(args.boxes)
    named = {picture.resolve(): picture for picture in pictures or [row.picture for row in rows]}
    faces: dict[Path, list[Face]] = {picture: [] for picture in named.values()}
    chosen = [row for row in rows if row.picture.resolve() in named]
    for order, row in enumerate(chosen):
        picture = named[row.picture.resolve()]
        faces[picture].append(Face(order, row.box, f"{row.where}: {picture}"))
    for picture, found in faces.items():
        if not found:
            raise DataError(f"{args.boxes}: has no row for {picture}")
    return faces


def import_file(path: str) -> None:
    """Run a Python file, such as one that registers a kind of task."""
    try:
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        if spec is None:
            raise ConfigError("expected a .py file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # as dataclasses and pickles expect it
        spec.loader.exec_module(module)
    except Exception as error:  # a user's code may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        text = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"--import {path}: {text} (line {line})") from error


def box_of(args: argparse.Namespace):
    return whole_pixels(args.box, "--box") if args.box else None


def batches(faces: dict[Path, list], size: int) -> Iterator[list[tuple[Path, list]]]:
    """Pictures with their faces, so many at a time that their faces fill a batch."""
    chunk: list[tuple[Path, list]] = []
    for item in faces.items():
        chunk.append(item)
        if sum(len(found) for _, found in chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def summary(tasks: dict, prediction: dict) -> str:
    parts = summary_lines(tasks, prediction, limit=6)
    for name, task in tasks.items():
        points = task.points(prediction[name])
        if len(points):
            parts.append(f"{name} " + " ".join(f"({x:.1f}, {y:.1f})" for x, y in points))
    return "; ".join(parts)


def write_picture(path: Path, image: np.ndarray) -> None:
    drawn = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise DataError(f"{path}: the drawn picture cannot be written as JPEG")
    data.tofile(path)


class Progress:
    """How many pictures or frames are done, on stderr, once there is something to wait for."""

    def __init__(self, total: int, unit: str):
        self.total = total
        self.unit = unit
        self.live = sys.stderr.isatty()
        self.started = self.shown = time.monotonic()

    def update(self, done: int, last: bool = False) -> None:
        now = time.monotonic()
        waited = now - self.shown >= (0.2 if self.live else 10)
        if max(self.total, done) < 2 or not (last or waited):
            return
        self.shown = now
        rate = done / max(now - self.started, 1e-9)
        of = f"/{self.total}" if self.total >= done else ""
        end = "\r" if self.live and not last else "\n"
        print(f"{done}{of} {self.unit}, {rate:.1f} a second", end=end, file=sys.stderr)


def record_of(tasks: dict, place: dict, box, prediction: dict, drawn: Path) -> dict:
    return {
        **place,
        "box": list(box) if box is not None else None,
        "tasks": as_json(tasks, prediction),
        "drawn": str(drawn),
    }


def check_outputs(paths: list[tuple[str, Path]], args: argparse.Namespace, inputs: list) -> None:
    read = [args.model, *([args.boxes] if args.boxes else []), *inputs]
    taken = {os.path.realpath(file) for file in read}
    for option, path in paths:
        if os.path.realpath(path) in taken:
            raise ConfigError(
                f"{option}: {path} is read or written by this run and would be overwritten"
            )
        taken.add(os.path.realpath(path))


def predict(args: argparse.Namespace) -> int:
    """Run on all pictures and videos; how many of them could not be used."""
    for path in args.imports:
        import_file(path)
    predictor = TaskPredictor(args.model, providers_of(args.provider))
    pictures, videos = split_inputs(args)
    faces = faces_by_picture(args, pictures)
    folder = Path(args.out_dir)
    jsonl = Path(args.jsonl) if args.jsonl else folder / "predictions.jsonl"
    table = Path(args.csv) if args.csv else None
    inputs = [*faces, *videos]
    named = [("--jsonl", jsonl), *([("--csv", table)] if table else [])]
    check_outputs(named, args, inputs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out-dir {folder}: cannot be made: {error.strerror or error}"
        ) from error
    suffixes = [".jpg"] * len(faces) + [".mp4"] * len(videos)
    outputs = dict(zip(inputs, output_paths(inputs, folder, suffixes), strict=True))
    results = Results(predictor.tasks, jsonl, table)
    whole = False
    try:
        failed = predict_pictures(predictor, faces, outputs, results, args.batch_size)
        for video in videos:
            try:
                predict_video(predictor, video, outputs[video], results, args)
            except DataError as error:
                tell(error)
                failed += 1
        whole = True
    finally:
        for part in results.close(whole):
            print(f"what was found until then is in {part}", file=sys.stderr)
    total = sum(map(len, faces.values())) + len(videos)
    if failed and total > 1:
        kind = "faces" if args.boxes else "pictures and videos" if videos else "pictures"
        print(f"{failed} of {total} {kind} could not be used", file=sys.stderr)
    return failed


def tell(error: Exception) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def predict_pictures(
    predictor: TaskPredictor,
    faces: dict[Path, list],
    outputs: dict[Path, Path],
    results: Results,
    batch_size: int,
) -> int:
    """How many of the faces could not be used."""
    progress = Progress(len(faces), "pictures")
    done = failed = 0
    for chunk in batches(faces, batch_size):
        for picture, image, found, problems in run_batch(predictor, chunk, batch_size):
            for error, lost in problems:
                tell(error)
                failed += len(lost)
                for face in lost:
                    results.write(None, face.order)
            done += 1
            if not found:
                continue
            drawn = outputs[picture]
            boxes, predictions = [face.box for face, _ in found], [value for _, value in found]
            write_picture(drawn, draw_faces(image, predictor.tasks, predictions, boxes))
            for face, prediction in found:
                place = {"image": str(picture)}
                record = record_of(predictor.tasks, place, face.box, prediction, drawn)
                results.write(record, face.order)
            told = [summary(predictor.tasks, prediction) for prediction in predictions]
            print(f"{picture}: {' | '.join(told)} -> {drawn}", flush=True)
        progress.update(done, done == len(faces))
    return failed


def predict_video(
    predictor: TaskPredictor,
    path: Path,
    drawn: Path,
    results: Results,
    args: argparse.Namespace,
) -> None:
    """Every frame of a video, a batch at a time; the whole frame or the one box."""
    video, box = VideoFile(path), box_of(args)
    output = VideoOutput(drawn, video.rate)
    progress = Progress(video.expected, "frames")
    frames = video.frames()
    done = 0
    try:
        while chunk := list(itertools.islice(frames, args.batch_size)):
            names = [f"{path} frame {done + index}" for index in range(len(chunk))]
            boxes = [box] * len(chunk)
            found = predictor.predict(chunk, boxes, args.batch_size, names)
            for image, prediction in zip(chunk, found, strict=True):
                output.write(draw_faces(image, predictor.tasks, [prediction], [box], steady=True))
                place = {"image": str(path), "frame": done, "seconds": done / video.rate}
                results.write(record_of(predictor.tasks, place, box, prediction, drawn))
                done += 1
            progress.update(done)
    finally:
        output.close()
    progress.update(done, last=True)
    if done < video.expected:
        print(f"{path}: ended after {done} of {video.expected} frames", file=sys.stderr)
    print(f"{path}: {done} frames -> {drawn}", flush=True)


def run_batch(
    predictor: TaskPredictor, chunk: list[tuple[Path, list[Face]]], batch_size: int
) -> list[tuple]:
    """Of each picture (picture, image, found, problems).

    ``found``: its usable faces, each with its prediction; ``problems``: errors, each with the
    faces that it costs.
    """
    pictures = []
    for picture, faces in chunk:
        image, usable, problems = None, [], []
        try:
            image = read_image(str(picture))
        except DataError as error:
            row = faces[0].name.removesuffix(str(picture))
            problems.append((DataError(f"{row}{error}"), faces))
        for face in faces if image is not None else ():
            try:
                cut_face(image, face.box, face.name)
                usable.append(face)
            except DataError as error:
                problems.append((error, [face]))
        pictures.append((picture, image, usable, problems))
    given = [(image, face) for _, image, usable, _ in pictures for face in usable]
    images, boxes = [image for image, _ in given], [face.box for _, face in given]
    names = [face.name for _, face in given]
    found = iter(predictor.predict(images, boxes, batch_size, names))
    return [
        (picture, image, [(face, next(found)) for face in usable], problems)
        for picture, image, usable, problems in pictures
    ]


def main(args: argparse.Namespace) -> int:
    return 2 if predict(args) else 0
