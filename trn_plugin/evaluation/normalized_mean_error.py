"""Normalised mean error of landmarks, the "Err." of the paper's Table 1."""

from __future__ import annotations

from collections import Counter

import numpy as np
from mmengine.logging import print_log

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.task_metric import (
    Samples,
    TaskMetric,
    key_name,
    listed,
    table,
    to_array,
    warn,
)
from trn_plugin.registry import METRICS
from trn_plugin.tasks import ClassTask, LandmarkTask, Task
from trn_plugin.tasks.landmarks import NORMS, nanmean, normalized_errors

__all__ = ["NormalizedMeanError"]


@METRICS.register_module()
class NormalizedMeanError(TaskMetric):
    """Mean over pictures of (mean point error / normaliser), in percent.

    Distances are in the picture's pixels, so crops need not be square. Pictures without landmarks
    are left out, as are those whose normaliser is 0, not finite, or lacks a point (with a warning).
    Other missing points are left out of a picture's mean. Without any usable picture every value is
    NaN (with a warning).

    Keys: ``NME``; ``failure_rate``, the percentage of pictures whose error exceeds
    ``failure_threshold``; ``offset_x`` and ``offset_y``, how far predictions lie to the right of
    and below the labels, in the picture's pixels (medians over all points), and
    ``offset_x_<point>`` and ``offset_y_<point>`` of each point (in the log as a table); with
    ``by``, ``NME_<class>`` for each class; with ``mean_shape``, ``NME_mean_shape``.

    Args:
        task: Name of the landmark task, and the keys' prefix. To measure with a second normaliser
            in the same run, give that metric its own ``prefix``.
        norm: ``'interocular'``, the distance between the two true eye points (the paper's; the data
            set's ``metainfo['tasks'][task]['interocular']`` holds their indices);
            ``'box'``, sqrt(width * height) of the true points' bounding box; ``'diagonal'``, the
            diagonal of that bounding box; ``'crop'``, sqrt(width * height) of the crop.
        by: Name of a class task to break the error down by.
        failure_threshold: In percent of the normaliser.
        mean_shape: Also report the error of a constant prediction, the mean of the evaluated labels
            in fractions of the crop.

    Raises:
        ConfigError: ``norm`` is unknown or needs eye points that the data set does not name, or a
            task is unknown or of another kind.
    """

    task_type = LandmarkTask
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
        """See :class:`TaskMetric`; also checks that the norm's points are known."""
        TaskMetric.dataset_meta.fset(self, dataset_meta)
        task = self.described.get(self.task)
        if self.norm == "interocular" and task and task.interocular is None:
            raise ConfigError(
                f"NormalizedMeanError.norm: the data set does not say which points of "
                f"{self.task!r} are the eyes (interocular); set norm to box, diagonal or crop"
            )

    def _needed_tasks(self) -> dict[str, type[Task]]:
        by = [self.by] if self.by else []
        return super()._needed_tasks() | dict.fromkeys(by, ClassTask)

    def process(self, data_batch: object, data_samples: Samples) -> None:
        """Store (prediction, label or None, box, its source, class or None) of each picture."""
        columns = (
            self.predictions(data_samples),
            self.labels(data_samples),
            self.meta(data_samples, "box"),
            self.meta(data_samples, "box_source", "unnamed"),
            self.labels(data_samples, self.by) if self.by else [None] * len(data_samples),
        )
        self.results.extend(zip(*columns, strict=True))

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Percentages and offsets by key; NaN without usable pictures."""
        labelled = [result for result in results if result[1] is not None]
        errors = classes = mean_errors = np.zeros(0)
        offsets = np.zeros((0, 0, 2))
        if labelled:
            pred, truth, boxes = (
                np.stack([to_array(result[i]) for result in labelled]) for i in range(3)
            )
            task = self.described.get(self.task)
            eyes = (task.interocular if task else None) or (0, 1)
            errors = normalized_errors(pred, truth, boxes, self.norm, eyes)
            classes = np.array([-1 if result[4] is None else int(result[4]) for result in labelled])
            usable = ~np.isnan(errors)
            sides = boxes[:, None, 2:] - boxes[:, None, :2]
            offsets = (np.subtract(pred, truth, dtype=np.float64) * sides)[usable]
            errors, classes = errors[usable], classes[usable]
            if errors.size:
                constant = np.broadcast_to(nanmean(truth[usable], axis=0), truth[usable].shape)
                mean_errors = normalized_errors(
                    constant, truth[usable], boxes[usable], self.norm, eyes
                )
        self._report(results, labelled, errors)
        metrics = {
            "NME": _percent(errors),
            "failure_rate": _percent(errors > self.failure_threshold / 100),
        }
        metrics |= self._offsets(offsets, len(results[0][0]) if results else 0)
        if self.mean_shape:
            metrics["NME_mean_shape"] = _percent(mean_errors)
        names = self._names(self.by, int(classes.max(initial=-1)) + 1) if self.by else ()
        for index, name in enumerate(names):
            metrics[f"NME_{key_name(name)}"] = _percent(errors[classes == index])
        return metrics

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
            why = "whose normaliser is 0, not finite, or lacks a point"
            warn(f"{name}: left out {left_out} pictures {why}")
        if nonfinite := int(np.isinf(errors).sum()):
            warn(f"{name}: {nonfinite} predictions are not finite; they count as failures")

    def _offsets(self, offsets: np.ndarray, count: int) -> dict[str, float]:
        """Medians of the offsets (n, ``count``, 2), of all points and of each; logged as a table.

        A similar offset of all points indicates shifted labels.
        """
        medians = {"": _median(offsets.reshape(-1, 2))}
        for point, name in enumerate(self._names(self.task, count)):
            medians[name] = _median(offsets[:, point]) if offsets.size else (np.nan, np.nan)
        if offsets.size:
            rows = [[name or "all", *(f"{v:+.2f}" for v in xy)] for name, xy in medians.items()]
            print_log(
                f"{self.prefix}: median of prediction - label in pixels of the picture, to the "
                f"right and below\n{table(['point', 'x', 'y'], rows)}",
                logger="current",
            )
        return {
            f"offset_{axis}_{key_name(name)}" if name else f"offset_{axis}": value
            for name, xy in medians.items()
            for axis, value in zip("xy", xy, strict=True)
        }


def _median(offsets: np.ndarray) -> tuple[float, float]:
    """Medians of x and y over the finite offsets (n, 2); NaN if there are none."""
    known = offsets[np.isfinite(offsets).all(axis=1)]
    return tuple(np.median(known, axis=0).tolist()) if len(known) else (np.nan, np.nan)


def _percent(values: np.ndarray) -> float:
    return 100 * float(np.mean(values)) if values.size else float("nan")
