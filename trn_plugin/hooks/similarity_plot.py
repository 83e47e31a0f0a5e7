"""Plot task similarity over training."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from trn_plugin.evaluation.similarity_plots import save_training_curves
from trn_plugin.evaluation.task_metric import to_array
from trn_plugin.files import atomic_write
from trn_plugin.geometry import read_image
from trn_plugin.models.neck import TaskRelationNeck
from trn_plugin.registry import HOOKS
from trn_plugin.relation import chance_similarity

__all__ = ["SimilarityPlotHook"]

PREFIX = "train/relation/"
LABEL, SAMPLES = "label", "samples"
CHANCE_POINTS = 200  # per curve, interpolated


@HOOKS.register_module()
class SimilarityPlotHook(Hook):
    """Write ``similarity.png`` to the work directory: tau over the iterations of training.

    Each relation has a panel with the running tau of each level and of the labels, as logged under
    ``relation/<level>/<a>-<b>``. A curve is faint until the effective sample size suffices for a
    gradient; a dotted line shows the chance level. It is drawn after every validation and at the
    end, when it also goes to the visualizer's backends. Without relations there is no picture.

    Priority: LOWEST, after the values of a step are logged.
    """

    priority = "LOWEST"

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Draw the training so far."""
        self._draw(runner)

    def after_train(self, runner) -> None:
        """Draw the whole training."""
        path = self._draw(runner)
        if path is not None:
            runner.visualizer.add_image("similarity", read_image(path), step=runner.iter)

    @master_only
    def _draw(self, runner) -> str | None:
        scalars = {name: buffer.data[0] for name, buffer in runner.message_hub.log_scalars.items()}
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        attached = [getattr(hook, "attached", None) for hook in runner.hooks]
        necks = [getattr(each, "neck", None) for each in (model, *attached)]
        widths = {}
        for neck in necks:
            if isinstance(neck, TaskRelationNeck):
                widths |= neck.widths()
        return _save_training_curves(runner.work_dir, scalars, runner.iter, widths)


def _save_training_curves(folder: str, scalars: Mapping, last: int, widths: Mapping) -> str | None:
    """Draw ``similarity.png`` into a folder; returns its path, None if nothing was logged.

    ``scalars`` is the training log up to iteration ``last``, (N,) by name; ``widths`` are those of
    ``TaskRelationNeck.widths``.
    """
    curves: dict[str, dict[str, np.ndarray]] = {}
    for key, history in scalars.items():
        level, _, relation = key.removeprefix(PREFIX).rpartition("/")
        if key.startswith(PREFIX) and level:
            curves.setdefault(relation, {})[level] = to_array(history).astype(float)
    samples = {relation: levels.pop(SAMPLES, None) for relation, levels in curves.items()}
    panels = {
        relation: dict(sorted(levels.items(), key=lambda item: item[0] != LABEL))
        for relation, levels in curves.items()
        if LABEL in levels
    }
    if not panels:
        return None
    arrived: dict[str, dict[str, np.ndarray]] = {}
    chance: dict[str, dict[str, np.ndarray]] = {}
    for level, relations in widths.items():
        for relation, (d1, d2, needed) in relations.items():
            if samples.get(relation) is not None:
                arrived.setdefault(relation, {})[level] = samples[relation] >= needed
                chance.setdefault(relation, {})[level] = _chance(samples[relation], d1, d2)
    path = os.path.join(folder, "similarity.png")
    with atomic_write(path) as partial:
        save_training_curves(str(partial), panels, LABEL, last, arrived=arrived, chance=chance)
    return path


def _chance(samples: np.ndarray, d1: int, d2: int) -> np.ndarray:
    """Chance level at each effective sample size; 1 where it is undefined."""
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return np.full(len(samples), np.nan)
    points = np.quantile(finite, np.linspace(0, 1, CHANCE_POINTS))
    values = np.nan_to_num([chance_similarity(n, d1, d2) for n in points], nan=1.0)
    return np.interp(samples, points, values)
