"""The job of `trn-plugin predict`: run a model on pictures and videos, and write the results."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from trn_plugin.deploy import TaskPredictor, draw_objects
from trn_plugin.deploy.crops import whole_pictures_note
from trn_plugin.deploy.cutting import Place
from trn_plugin.deploy.detector import FaceDetector
from trn_plugin.deploy.drawing import summary_lines
from trn_plugin.deploy.inputs import find_inputs, output_paths, read_boxes, whole_pixels
from trn_plugin.deploy.pictures import PictureResult, map_ahead, predict_pictures
from trn_plugin.deploy.records import Results, as_json, write_errors
from trn_plugin.deploy.session import providers_of
from trn_plugin.deploy.video import VideoFile, VideoOutput
from trn_plugin.errors import ConfigError, DataError


def places_of(args: argparse.Namespace, pictures: list[Path]) -> dict[Path, list[Place]]:
    """The boxes of each picture; a box of None is the whole picture."""
    if not args.boxes:
        box = box_of(args)
        return {path: [Place(box, str(path))] for path in pictures}
    rows = read_boxes(args.boxes)
    real = {path: path.resolve() for path in {*pictures, *(row.picture for row in rows)}}
    named = {real[picture]: picture for picture in pictures or [row.picture for row in rows]}
    places: dict[Path, list[Place]] = {picture: [] for picture in named.values()}
    chosen = [row for row in rows if real[row.picture] in named]
    for order, row in enumerate(chosen):
        picture = named[real[row.picture]]
        places[picture].append(Place(row.box, f"{row.where}: {picture}", order))
    for picture, found in places.items():
        if not found:
            raise DataError(f"{args.boxes}: has no row for {picture}")
    return places


def box_of(args: argparse.Namespace):
    return whole_pixels(args.box, "--box") if args.box else None


def check_inputs(args: argparse.Namespace, pictures: list[Path], videos: list[Path]) -> None:
    if videos and (args.boxes or args.detector):
        option = "--boxes" if args.boxes else "--detector"
        raise DataError(f"{option}: is for pictures; for {videos[0]} give --box")
    if args.box and len(pictures) + len(videos) != 1:
        found = f"{len(pictures)} pictures and {len(videos)} videos" if videos else len(pictures)
        raise DataError(f"--box: expected one picture, found {found}; see --boxes")


def check_outputs(paths: list[tuple[str, Path]], args: argparse.Namespace, inputs: list) -> None:
    read = [args.model, *([args.boxes] if args.boxes else []), *inputs]
    taken = set(map(identity, read))
    for option, path in paths:
        if identity(path) in taken:
            raise ConfigError(
                f"{option}: {path} is read or written by this run and would be overwritten"
            )
        taken.add(identity(path))


def identity(path: str | Path):
    """What tells files apart: device and inode, or the real path of a missing file."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def shown_tasks(predictor: TaskPredictor, names: list[str] | None) -> dict:
    unknown = [name for name in names or () if name not in predictor.tasks]
    if unknown:
        raise ConfigError(f"--show: expected {', '.join(predictor.tasks)}, found {unknown[0]!r}")
    return {name: task for name, task in predictor.tasks.items() if not names or name in names}


def note(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr, flush=True)


class Progress:
    """Print on stderr every 10 seconds, and at the end, how many pictures or frames are done."""

    def __init__(self, total: int, unit: str):
        self.total, self.unit = total, unit
        self.started = self.shown = time.monotonic()

    def update(self, done: int, last: bool = False) -> None:
        now = time.monotonic()
        if max(self.total, done) < 2 or not (last or now - self.shown >= 10):
            return
        self.shown = now
        rate = done / max(now - self.started, 1e-9)
        of = f"/{self.total}" if self.total >= done else ""
        note(f"{done}{of} {self.unit}, {rate:.1f} a second")


class PredictionJob:
    """One run of the command: its model, the tasks to show, and the number of failed objects."""

    def __init__(self, args: argparse.Namespace, pool: Executor) -> None:
        self.args, self.pool = args, pool
        providers = providers_of(args.provider)
        # without busy-waiting, which would take cores from the pool
        self.predictor = TaskPredictor(args.model, providers, spinning=False)
        self.shown = shown_tasks(self.predictor, args.show)
        self.detector = FaceDetector(args.detector) if args.detector else None
        self.word = "face" if args.detector else "object"
        self.failed = 0

    def run(self) -> int:
        """Run on all pictures and videos; return how many objects and videos could not be used."""
        args, folder = self.args, Path(self.args.out_dir)
        if not args.images and not args.boxes:
            raise DataError("expected a picture, a folder of pictures, a video or --boxes CSV")
        found = find_inputs(args.images, exclude=folder)
        check_inputs(args, found.pictures, found.videos)
        if found.left_out:
            note(found.left_out_message())
        places = places_of(args, found.pictures)
        jsonl = Path(args.jsonl) if args.jsonl else folder / "predictions.jsonl"
        table = Path(args.csv) if args.csv else None
        inputs = [*places, *found.videos]
        named = [("--jsonl", jsonl), *([("--csv", table)] if table else [])]
        check_outputs(named, args, inputs)
        with write_errors(f"--out-dir {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        drawn = {}
        if not args.no_draw:
            suffixes = [".jpg"] * len(places) + [".mp4"] * len(found.videos)
            drawn = dict(zip(inputs, output_paths(inputs, folder, suffixes), strict=True))
        told = whole_pictures_note(args.model, self.predictor.metadata.get("crop"))
        if told and not (args.box or args.boxes or args.detector):
            note(f"{told}; give the objects with --box, --boxes or --detector")
        results = Results(self.predictor.tasks, jsonl, table)
        complete = False
        try:
            self.pictures(places, drawn, results)
            for video in found.videos:
                try:
                    self.video(video, drawn.get(video), results)
                except DataError as error:
                    note(f"error: {error}")
                    self.failed += 1
            complete = results.written > 0 or not self.failed
        finally:
            for part in results.close(complete):
                note(f"the results so far are in {part}")
        total = sum(map(len, places.values())) + len(found.videos)
        if self.failed and total > 1:
            note(f"{self.failed} of {total} objects could not be used")
        return self.failed

    def pictures(self, places: dict, drawn: dict[Path, Path], results: Results) -> None:
        """Predict and report pictures; threads read ahead and draw while the model runs."""

        def draw(found: PictureResult) -> tuple[PictureResult, Path | None]:
            path = drawn.get(found.picture) if found.places else None
            if path is not None:
                boxes, predictions = [place.box for place in found.places], found.predictions
                image = draw_objects(found.image, self.shown, predictions, boxes, word=self.word)
                write_picture(path, image)
            return found, path

        progress, size = Progress(len(places), "pictures"), self.args.batch_size
        found = predict_pictures(self.predictor, places, self.pool, size, self.detector)
        for done, (each, path) in enumerate(map_ahead(self.pool, draw, found, 2 * size), start=1):
            self.report(each, path, results)
            progress.update(done, done == len(places))

    def report(self, found: PictureResult, drawn: Path | None, results: Results) -> None:
        """Write and print the predictions and the errors of a picture."""
        for error, lost in found.problems:
            note(f"error: {error}")
            self.failed += len(lost)
            for place in lost:
                results.write(None, place.order)
        for place, prediction in zip(found.places, found.predictions, strict=True):
            where = {"image": str(found.picture)}
            results.write(self.record(where, place.box, prediction, drawn), place.order)
        if found.image is None:
            return
        text = " | ".join(summary(self.shown, prediction) for prediction in found.predictions)
        if self.detector is not None:
            count = len(found.places)
            text = f"{count} face{'s' * (count != 1)}{': ' * bool(text)}{text}"
        if text:
            print(f"{found.picture}: {text}{f' -> {drawn}' if drawn else ''}", flush=True)

    def record(self, where: dict, box, prediction: dict, drawn: Path | None) -> dict:
        return {
            **where,
            "box": list(box) if box is not None else None,
            "tasks": as_json(self.predictor.tasks, prediction),
            "drawn": str(drawn) if drawn else None,
        }

    def video(self, path: Path, drawn: Path | None, results: Results) -> None:
        """Predict every frame of a video in batches, on the whole frame or on --box."""

        def draw(frame: np.ndarray, prediction: dict) -> np.ndarray:
            return draw_objects(frame, self.shown, [prediction], [box], fixed_size=True)

        video, box, size = VideoFile(path), box_of(self.args), self.args.batch_size
        output = VideoOutput(drawn, video.rate) if drawn else None
        progress = Progress(video.expected, "frames")
        frames = video.frames()
        reader = ThreadPoolExecutor(max_workers=1)  # frames must be read in order
        chunks = map_ahead(
            reader, lambda _: list(itertools.islice(frames, size)), itertools.count(), 1
        )
        done = 0
        try:
            for chunk in itertools.takewhile(len, chunks):
                names = [f"{path} frame {done + index}" for index in range(len(chunk))]
                found = self.predictor.predict(chunk, [box] * len(chunk), size, names)
                if output is not None:
                    for image in self.pool.map(draw, chunk, found):
                        output.write(image)
                for prediction in found:
                    where = {"image": str(path), "frame": done, "seconds": done / video.rate}
                    results.write(self.record(where, box, prediction, drawn))
                    done += 1
                progress.update(done)
        finally:
            reader.shutdown()
            if output is not None:
                output.close()
        progress.update(done, last=True)
        if done < video.expected:
            note(f"{path}: ended after {done} of {video.expected} frames")
        print(f"{path}: {done} frames{f' -> {drawn}' if drawn else ''}", flush=True)


def summary(tasks: dict, prediction: dict) -> str:
    parts = summary_lines(tasks, prediction)
    for name, task in tasks.items():
        points = task.points(prediction[name])
        if len(points):
            parts.append(f"{name} " + " ".join(f"({x:.1f}, {y:.1f})" for x, y in points))
    return "; ".join(parts)


def write_picture(path: Path, image: np.ndarray) -> None:
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise DataError(f"{path}: the drawn picture cannot be written as JPEG")
    with write_errors(path):
        path.write_bytes(data.tobytes())
