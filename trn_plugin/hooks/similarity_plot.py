"""Draws task similarity over training."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook

from trn_plugin.evaluation import plots
from trn_plugin.evaluation.task_metric import to_array
from trn_plugin.geometry import read_image
from trn_plugin.registry import HOOKS

__all__ = ["SimilarityPlotHook", "save_similarity_courses"]

PREFIX = "train/relation/"
LABEL = "label"


@HOOKS.register_module()
class SimilarityPlotHook(Hook):
    """Write ``similarity.png`` to the work directory: tau over the iterations of training.

    One panel a relation, with the running tau of each level and of the labels as the model logs
    them, ``relation/<level>/<a>-<b>``. It is drawn after every validation and at the end, when it
    also goes to the visualizer's backends. A run without relations has no such picture.

    Priority: LOWEST, after the values of a step are logged.
    """

    priority = "LOWEST"

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Draw what there is so far; in a test run there is nothing."""
        self._draw(runner)

    def after_train(self, runner) -> None:
        """Draw the whole training."""
        path = self._draw(runner)
        if path is not None:
            runner.visualizer.add_image("similarity", read_image(path), step=runner.iter)

    @master_only
    def _draw(self, runner) -> str | None:
        scalars = {name: buffer.data[0] for name, buffer in runner.message_hub.log_scalars.items()}
        return save_similarity_courses(runner.work_dir, scalars, last=runner.iter)


def save_similarity_courses(folder: str, scalars: Mapping, last: int) -> str | None:
    """Draw ``similarity.png`` into a folder.

    Args:
        folder: which is there.
        scalars: what was logged in training, (N,) of the last N iterations by name.
        last: the last iteration.

    Returns:
        Its path; None if no task similarity was logged.
    """
    courses: dict[str, dict[str, np.ndarray]] = {}
    for key, history in scalars.items():
        level, _, relation = key.removeprefix(PREFIX).rpartition("/")
        if key.startswith(PREFIX) and level:
            courses.setdefault(relation, {})[level] = to_array(history).astype(float)
    panels = {
        relation: dict(sorted(levels.items(), key=lambda item: item[0] != LABEL))
        for relation, levels in courses.items()
        if LABEL in levels
    }
    if not panels:
        return None
    path, partial = (os.path.join(folder, name) for name in ("similarity.png", ".similarity.png"))
    plots.save_courses(partial, panels, LABEL, last)
    os.replace(partial, path)
    return path
