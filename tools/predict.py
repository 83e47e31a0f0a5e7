"""Run an exported model on pictures: draw what it finds and write it as JSON lines.

Needs onnxruntime, numpy and OpenCV; neither torch nor MMEngine.

    python tools/predict.py model.onnx face.jpg
    python tools/predict.py model.onnx group.jpg --box 40 60 200 220
    python tools/predict.py model.onnx photos/ --out-dir predictions
    python tools/predict.py model.onnx --boxes faces.csv --jsonl faces.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from trn_plugin.deploy import FaceTaskPredictor, draw_faces
from trn_plugin.deploy.drawing import summary_lines
from trn_plugin.deploy.inputs import (
    find_pictures,
    output_paths,
    read_boxes,
    whole_pixels,
)
from trn_plugin.errors import ConfigError, DataError, TrnPluginError
from trn_plugin.geometry import read_image

JPEG_QUALITY = 95


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    description, example = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a file written by tools/export_onnx.py")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="pictures, or folders of them")
    box = parser.add_mutually_exclusive_group()
    box.add_argument(
        "--box",
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="the face in the one picture given, in pixels; default: the whole picture",
    )
    box.add_argument(
        "--boxes",
        metavar="CSV",
        help="faces as rows of image,x0,y0,x1,y1 under that header; without IMAGE, all of them",
    )
    parser.add_argument(
        "--out-dir", default="predictions", metavar="D", help="for drawn pictures (%(default)s)"
    )
    parser.add_argument(
        "--jsonl", metavar="FILE", help="one line a face (default: D/predictions.jsonl)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="faces at once (%(default)s)"
    )
    return parser.parse_args(arguments)


def faces_by_picture(args: argparse.Namespace) -> dict[Path, list]:
    """The boxes of each picture; None for the whole picture."""
    if not args.images and not args.boxes:
        raise DataError("expected a picture, a folder of pictures or --boxes CSV")
    pictures = find_pictures(args.images, exclude=Path(args.out_dir))
    if args.boxes:
        rows = read_boxes(args.boxes)
        boxes: dict[Path, list] = {}
        for picture, box in rows:
            boxes.setdefault(picture.resolve(), []).append(box)
        if not pictures:
            pictures = list({picture.resolve(): picture for picture, _ in rows}.values())
        for picture in pictures:
            if picture.resolve() not in boxes:
                raise DataError(f"{args.boxes}: has no row for {picture}")
        return {picture: boxes[picture.resolve()] for picture in pictures}
    if args.box:
        if len(pictures) != 1:
            raise DataError(f"--box: expected one picture, found {len(pictures)}; see --boxes")
        return {pictures[0]: [whole_pixels(args.box, "--box")]}
    return {picture: [None] for picture in pictures}


def batches(faces: dict[Path, list], size: int) -> Iterator[list[tuple[Path, list]]]:
    """Pictures with their boxes, so many at a time that their faces fill a batch."""
    chunk: list[tuple[Path, list]] = []
    for item in faces.items():
        chunk.append(item)
        if sum(len(boxes) for _, boxes in chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def as_json(tasks: dict[str, dict], prediction: dict) -> dict:
    """A prediction of plain values: landmarks as name -> [x, y] in the picture's pixels."""
    plain = dict(prediction)
    for name, task in tasks.items():
        if task["kind"] == "landmarks":
            points = prediction[name].tolist()
            plain[name] = dict(zip(task["names"], points, strict=True))
        elif task["kind"] == "class":
            found = prediction[name]
            probabilities = dict(zip(task["classes"], found["probabilities"], strict=True))
            plain[name] = {**found, "probabilities": probabilities}
    return plain


def summary(tasks: dict[str, dict], prediction: dict) -> str:
    parts = summary_lines(tasks, prediction, limit=6)
    for name, task in tasks.items():
        if task["kind"] == "landmarks":
            points = " ".join(f"({x:.1f}, {y:.1f})" for x, y in prediction[name])
            parts.append(f"{name} {points}")
    return "; ".join(parts)


def write_picture(path: Path, image: np.ndarray) -> None:
    drawn = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise DataError(f"{path}: the drawn picture cannot be written as JPEG")
    data.tofile(path)


class Progress:
    """How many pictures are done, on stderr, once there is something to wait for."""

    def __init__(self, total: int):
        self.total = total
        self.live = sys.stderr.isatty()
        self.started = self.shown = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if self.total < 2 or (done < self.total and now - self.shown < (0.2 if self.live else 10)):
            return
        self.shown = now
        rate = done / max(now - self.started, 1e-9)
        end = "\r" if self.live and done < self.total else "\n"
        print(f"{done}/{self.total} pictures, {rate:.1f} a second", end=end, file=sys.stderr)


def check_jsonl(path: Path, args: argparse.Namespace, pictures: list[Path]) -> None:
    read = [args.model, *([args.boxes] if args.boxes else []), *pictures]
    if os.path.realpath(path) in {os.path.realpath(file) for file in read}:
        raise ConfigError(f"--jsonl: {path} is read by this run and would be overwritten")


def predict(args: argparse.Namespace) -> int:
    """Run on all pictures; how many of them could not be used."""
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size: expected at least 1, found {args.batch_size}")
    predictor = FaceTaskPredictor(args.model)
    faces = faces_by_picture(args)
    folder = Path(args.out_dir)
    jsonl = Path(args.jsonl) if args.jsonl else folder / "predictions.jsonl"
    check_jsonl(jsonl, args, list(faces))
    folder.mkdir(parents=True, exist_ok=True)
    jsonl.parent.mkdir(parents=True, exist_ok=True)
    outputs = dict(zip(faces, output_paths(list(faces), folder), strict=True))
    progress = Progress(len(faces))
    done = failed = 0
    with jsonl.open("w", encoding="utf-8") as lines:
        for chunk in batches(faces, args.batch_size):
            good, errors = run_batch(predictor, chunk, args.batch_size)
            for error in errors:
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            failed += len(errors)
            done += len(errors)
            for picture, image, boxes, predictions in good:
                drawn = outputs[picture]
                write_picture(drawn, draw_faces(image, predictor.tasks, predictions, boxes))
                for box, prediction in zip(boxes, predictions, strict=True):
                    record = {
                        "image": str(picture),
                        "box": list(box) if box is not None else None,
                        "tasks": as_json(predictor.tasks, prediction),
                        "drawn": str(drawn),
                    }
                    lines.write(json.dumps(record) + "\n")
                found = [summary(predictor.tasks, prediction) for prediction in predictions]
                print(f"{picture}: {' | '.join(found)} -> {drawn}", flush=True)
                done += 1
            progress.update(done)
    if failed and len(faces) > 1:
        print(f"{failed} of {len(faces)} pictures could not be used", file=sys.stderr)
    return failed


def run_batch(
    predictor: FaceTaskPredictor, chunk: list[tuple[Path, list]], batch_size: int
) -> tuple[list[tuple], list[DataError]]:
    """(picture, image, boxes, predictions) of those that can be used; why the others cannot."""
    good, errors = [], []
    for picture, boxes in chunk:
        try:
            good.append((picture, read_image(str(picture)), boxes))
        except DataError as error:
            errors.append(error)
    try:
        return predict_faces(predictor, good, batch_size), errors
    except DataError as error:
        if len(good) == 1:
            return [], [*errors, error]
    found = []
    for one in good:  # to know which of them it is
        try:
            found += predict_faces(predictor, [one], batch_size)
        except DataError as error:
            errors.append(error)
    return found, errors


def predict_faces(
    predictor: FaceTaskPredictor, pictures: list[tuple], batch_size: int
) -> list[tuple]:
    """Each (picture, image, boxes) with the predictions of its boxes."""
    faces = [(image, box, str(picture)) for picture, image, boxes in pictures for box in boxes]
    images, boxes, names = zip(*faces, strict=True) if faces else ((), (), ())
    found = iter(predictor.predict(images, boxes, batch_size, names=names))
    return [(*one, [next(found) for _ in one[2]]) for one in pictures]


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        failed = predict(args)
    except TrnPluginError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
