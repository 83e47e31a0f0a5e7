"""Normalised mean error of landmarks, the "Err." of the paper's Table 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from mmengine.logging import print_log

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation._task_metric import TaskMetric, key_name, listed, to_array, warn
from trn_plugin.geometry import box_to_image
from trn_plugin.registry import METRICS

__all__ = ["NORMS", "NormalizedMeanError", "default_norm", "normalized_errors"]

NORMS = ("interocular", "box", "diagonal", "crop")


def normalized_errors(
    pred: np.ndarray,
    truth: np.ndarray,
    boxes: np.ndarray,
    norm: str = "interocular",
    interocular: tuple[int, int] = (0, 1),
) -> np.ndarray:
    """Mean point error over a normaliser, both in the picture's pixels, for each picture.

    Args:
        pred: (N, P, 2) predicted points, fractions of the crop.
        truth: (N, P, 2) true points, fractions of the crop.
        boxes: (N, 4) x0, y0, x1, y1 of the crops in the pictures' pixels.
        norm: ``interocular``, the distance between the two true eye points; ``box``,
            sqrt(width * height) of the true points' bounding box; ``diagonal``, its diagonal;
            ``crop``, sqrt(width * height) of the crop.
        interocular: Indices of the two eye points.

    Returns:
        (N,) errors as fractions of the normaliser; NaN where the normaliser is 0 or not finite,
        inf where the normaliser is fine and the prediction is not finite.
    """
    pred, truth = (
        np.stack([box_to_image(p, box) for p, box in zip(points, boxes, strict=True)])
        for points in (np.asarray(pred, np.float64), np.asarray(truth, np.float64))
    )
    if norm == "interocular":
        left, right = interocular
        normalizer = np.linalg.norm(truth[:, left] - truth[:, right], axis=-1)
    else:
        boxes = np.asarray(boxes, np.float64)
        sides = truth.max(axis=1) - truth.min(axis=1)
        sides = boxes[:, 2:] - boxes[:, :2] if norm == "crop" else sides
        diagonal = norm == "diagonal"
        normalizer = np.linalg.norm(sides, axis=-1) if diagonal else np.sqrt(sides.prod(-1))
    distances = np.linalg.norm(pred - truth, axis=-1).mean(axis=-1)
    usable = np.isfinite(normalizer) & (normalizer > 0) & np.isfinite(truth).all(axis=(1, 2))
    distances = np.where(np.isfinite(distances), distances, np.inf)
    return np.where(usable, distances / np.where(usable, normalizer, 1.0), np.nan)


def default_norm(task: dict) -> str:
    """The normaliser that a landmark task's description allows: that of the paper, or 'crop'."""
    return "interocular" if "interocular" in task else "crop"


@METRICS.register_module()
class NormalizedMeanError(TaskMetric):
    """Mean over pictures of (mean point error / normaliser), in percent.

    Distances are measured in the picture's pixels, so that crops that are not square count right.
    Pictures without landmarks are left out; so are those whose normaliser is 0 or not finite
    (said in the log). With no picture left every value is NaN (with a warning).

    Keys: ``NME``; ``failure_rate``, the percentage of pictures whose error exceeds
    ``failure_threshold``; with ``by``, ``NME_<class>`` for each class; with ``mean_shape``,
    ``NME_mean_shape``.

    Args:
        task: Name of the landmark task, and the keys' prefix. Measure by a second normaliser in
            the same run by giving that metric a ``prefix`` of its own.
        norm: ``'interocular'``, the distance between the two true eye points (the paper's; which
            points these are is the data set's ``metainfo['tasks'][task]['interocular']``);
            ``'box'``, sqrt(width * height) of the true points' bounding box; ``'diagonal'``, the
            diagonal of that bounding box; ``'crop'``, sqrt(width * height) of the crop.
        by: Name of a class task to break the error down by; its classes are named by the data
            set's metainfo.
        failure_threshold: In percent of the normaliser.
        mean_shape: Also report what one constant prediction scores on the same pictures, the mean
            of the evaluated labels in fractions of the crop.

    Raises:
        ConfigError: if ``norm`` is unknown or needs eye points that the data set does not name, or
            a task is unknown or of another kind.
    """

    kind = "landmarks"
    directions = {"NME": "less", "failure_rate": "less"}

    def __init__(
        self,
        task: str = "landmarks",
        norm: str = "interocular",
        by: str | None = None,
        failure_threshold: float = 10.0,
        mean_shape: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(task, **kwargs)
        if norm not in NORMS:
            raise ConfigError(
                f"NormalizedMeanError.norm: expected one of {listed(NORMS)}, found {norm!r}"
            )
        self.norm = norm
        self.by = by
        self.failure_threshold = failure_threshold
        self.mean_shape = mean_shape

    @TaskMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        """See :class:`TaskMetric`; ``by`` must name a class task."""
        TaskMetric.dataset_meta.fset(self, dataset_meta)
        task = self._description(self.task, self.kind)
        if self.norm == "interocular" and task and "interocular" not in task:
            raise ConfigError(
                f"NormalizedMeanError.norm: the data set does not say which points of "
                f"{self.task!r} are the eyes (interocular); set norm to box, diagonal or crop"
            )
        if self.by is not None:
            self._description(self.by, "class")

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Keep (prediction, label or None, box, its source, class or None) of each picture."""
        for sample in data_samples:
            if "box" not in sample:
                raise ConfigError(
                    "NormalizedMeanError: expected 'box' in the samples' metainfo, found "
                    f"{listed(sample)}; add it to meta_keys of PackMultiTaskInputs"
                )
            label = None if self.by is None else self._label(sample, self.by)
            self.results.append(
                (
                    self._prediction(sample),
                    self._label(sample),
                    to_array(sample["box"]),
                    sample.get("box_source", "unnamed"),
                    None if label is None else int(label),
                )
            )

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Percentages by key; NaN for what has no picture."""
        labelled = [result for result in results if result[1] is not None]
        errors = classes = mean_errors = np.zeros(0)
        if labelled:
            pred, truth, boxes = (np.stack([result[i] for result in labelled]) for i in range(3))
            eyes = self._description(self.task, self.kind).get("interocular", (0, 1))
            errors = normalized_errors(pred, truth, boxes, self.norm, eyes)
            classes = np.array([-1 if result[4] is None else result[4] for result in labelled])
            usable = ~np.isnan(errors)
            errors, classes = errors[usable], classes[usable]
            if errors.size:
                constant = np.broadcast_to(truth[usable].mean(axis=0), truth[usable].shape)
                mean_errors = normalized_errors(
                    constant, truth[usable], boxes[usable], self.norm, eyes
                )
        self._report(results, labelled, errors)

        metrics = {
            "NME": _percent(errors),
            "failure_rate": _percent(errors > self.failure_threshold / 100),
        }
        if self.mean_shape:
            metrics["NME_mean_shape"] = _percent(mean_errors)
        for index, name in enumerate(self._classes(classes)):
            metrics[f"NME_{key_name(name)}"] = _percent(errors[classes == index])
        return metrics

    def _classes(self, classes: np.ndarray) -> Sequence[str]:
        if self.by is None:
            return ()
        described = self._description(self.by, "class").get("classes")
        return described or [str(i) for i in range(int(classes.max(initial=-1)) + 1)]

    def _report(self, results: list[tuple], labelled: list[tuple], errors: np.ndarray) -> None:
        name = f"{self.prefix}/NME"
        if not errors.size:
            warn(f"{name} is undefined: none of {len(results)} pictures has usable landmarks")
            return
        sources = Counter(result[3] for result in labelled)
        boxes = "; ".join(f"{source} ({count})" for source, count in sources.most_common())
        print_log(
            f"{name}: {errors.size} of {len(results)} pictures, norm {self.norm}, boxes: {boxes}",
            logger="current",
        )
        if left_out := len(labelled) - errors.size:
            warn(f"{name}: left out {left_out} pictures whose normaliser is 0 or not finite")
        if broken := int(np.isinf(errors).sum()):
            warn(f"{name}: {broken} predictions are not finite; they count as failures")


def _percent(values: np.ndarray) -> float:
    return 100 * float(np.mean(values)) if values.size else float("nan")
