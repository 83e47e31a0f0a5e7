"""Run a model on many pictures, which threads read and crop in advance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trn_plugin.deploy.crops import crop_around
from trn_plugin.deploy.cutting import Place, cut_places
from trn_plugin.deploy.detector import Detector, detections
from trn_plugin.deploy.runtime import TaskPredictor
from trn_plugin.errors import DataError
from trn_plugin.geometry import read_image

__all__ = ["PictureResult", "map_ahead", "predict_pictures"]


class PictureResult(NamedTuple):
    """A picture and its predictions.

    Attributes:
        picture (Path): path of the picture.
        image (np.ndarray | None): (H, W, 3) uint8 RGB; None if it cannot be read.
        places (list[Place]): the usable places.
        predictions (list[dict]): one for each place, from `TaskPredictor.predict`.
        problems (list): errors, each with the places that it affects.
    """

    picture: Path
    image: np.ndarray | None
    places: list[Place]
    predictions: list[dict]
    problems: list[tuple[DataError, list[Place]]]


def map_ahead(pool: Executor, run: Callable, items: Iterable, count: int) -> Iterator[Any]:
    """Map ``run`` over items in order, computing up to ``count`` results ahead in the pool."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(run, item))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def predict_pictures(
    predictor: TaskPredictor,
    places: Mapping[Path, list[Place]],
    pool: Executor,
    batch_size: int,
    detector: Detector | None = None,
) -> Iterator[PictureResult]:
    """Predict pictures in order; the next ones are read while the model runs.

    Args:
        predictor: the model.
        places: by picture, the places to predict.
        pool: threads.
        batch_size: batch size of the model, and number of pictures read ahead.
        detector: finds the places; those in ``places`` are then ignored.
    """
    crop = predictor.metadata.get("crop")

    def load(item: tuple[Path, list[Place]]) -> tuple:
        picture, given = item
        try:
            image = read_image(str(picture))
        except DataError as error:
            row = given[0].name.removesuffix(str(picture))
            return picture, None, [], [], [(DataError(f"{row}{error}"), given)]
        if detector is not None:
            found = detections(detector, image, str(picture))
            boxes = [crop_around(crop, each.box, each.points) for each in found]
            given = [Place(box, f"{picture} box {box}") for box in boxes]
        return picture, image, *cut_places(image, given)

    chunk: list[tuple] = []
    count = 0
    for loaded in map_ahead(pool, load, places.items(), batch_size):
        chunk.append(loaded)
        count += len(loaded[2])
        if count >= batch_size:
            yield from _predict_chunk(predictor, chunk, batch_size)
            chunk, count = [], 0
    yield from _predict_chunk(predictor, chunk, batch_size)


def _predict_chunk(
    predictor: TaskPredictor, chunk: list[tuple], batch_size: int
) -> Iterator[PictureResult]:
    places = [place for _, _, usable, _, _ in chunk for place in usable]
    crops = [crop for _, _, _, cut, _ in chunk for crop in cut]
    boxes, names = [place.box for place in places], [place.name for place in places]
    found = iter(predictor.predict_crops(crops, boxes, batch_size, names))
    for picture, image, usable, _, problems in chunk:
        yield PictureResult(picture, image, usable, [next(found) for _ in usable], problems)
