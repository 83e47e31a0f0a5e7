"""Plot task similarity over training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from trn_plugin.evaluation.similarity_plots import save_courses
from trn_plugin.evaluation.task_metric import to_array
from trn_plugin.files import atomic_write
from trn_plugin.geometry import read_image
from trn_plugin.models.neck import TaskRelationNeck
from trn_plugin.registry import HOOKS
from trn_plugin.relation import chance_similarity

__all__ = ["SimilarityPlotHook", "save_similarity_courses"]

PREFIX = "train/relation/"
LABEL, SAMPLES = "label", "samples"
INFO = "relation_widths"  # in the message hub: level, relation, d1, d2, needed samples, ...
CHANCE_POINTS = 200  # of a curve


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

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Save the widths of the features with the log."""
        self._store_widths(runner)

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
        widths = self._store_widths(runner)
        scalars = {name: buffer.data[0] for name, buffer in runner.message_hub.log_scalars.items()}
        return save_similarity_courses(runner.work_dir, scalars, runner.iter, widths)

    def _store_widths(self, runner) -> list:
        """Store level, relation, d1, d2 and needed samples of each relation as a flat list."""
        attached = [getattr(hook, "attached", None) for hook in getattr(runner, "hooks", ())]
        model = getattr(runner, "model", None)
        model = model.module if is_model_wrapper(model) else model
        necks = [getattr(model, "neck", None)]
        necks += [relations.neck for relations in attached if relations is not None]
        found = [
            entry
            for neck in necks
            if isinstance(neck, TaskRelationNeck)
            for level, relations in neck.widths().items()
            for name, numbers in relations.items()
            for entry in (level, name, *numbers)
        ]
        if found:
            runner.message_hub.update_info(INFO, found, resumed=True)
        return found


def save_similarity_courses(
    folder: str, scalars: Mapping, last: int, widths: Sequence = ()
) -> str | None:
    """Draw ``similarity.png`` into a folder.

    Args:
        folder: an existing folder.
        scalars: the training log, (N,) of the last N iterations by name.
        last: the last iteration.
        widths: flat list of level, relation, d1, d2 and needed samples; without it no curve is
            faint, and the chance level is not drawn.

    Returns:
        The path; None if no task similarity was logged.
    """
    courses: dict[str, dict[str, np.ndarray]] = {}
    for key, history in scalars.items():
        level, _, relation = key.removeprefix(PREFIX).rpartition("/")
        if key.startswith(PREFIX) and level:
            courses.setdefault(relation, {})[level] = to_array(history).astype(float)
    samples = {relation: levels.pop(SAMPLES, None) for relation, levels in courses.items()}
    panels = {
        relation: dict(sorted(levels.items(), key=lambda item: item[0] != LABEL))
        for relation, levels in courses.items()
        if LABEL in levels
    }
    if not panels:
        return None
    arrived: dict[str, dict[str, np.ndarray]] = {}
    chance: dict[str, dict[str, np.ndarray]] = {}
    for level, relation, d1, d2, needed in zip(*[iter(widths)] * 5, strict=False):
        if samples.get(relation) is not None:
            arrived.setdefault(relation, {})[level] = samples[relation] >= needed
            chance.setdefault(relation, {})[level] = _chance(samples[relation], d1, d2)
    path = os.path.join(folder, "similarity.png")
    with atomic_write(path) as partial:
        save_courses(str(partial), panels, LABEL, last, arrived=arrived, chance=chance)
    return path


def _chance(samples: np.ndarray, d1: int, d2: int) -> np.ndarray:
    """Chance level at each effective sample size; 1 where it is undefined."""
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return np.full(len(samples), np.nan)
    points = np.quantile(finite, np.linspace(0, 1, CHANCE_POINTS))
    values = np.nan_to_num([chance_similarity(n, d1, d2) for n in points], nan=1.0)
    return np.interp(samples, points, values)
