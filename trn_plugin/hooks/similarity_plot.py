"""Draws task similarity over training."""

from __future__ import annotations

import os

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook

from trn_plugin.evaluation import plots
from trn_plugin.geometry import read_image
from trn_plugin.registry import HOOKS

__all__ = ["SimilarityPlotHook"]

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
        courses = _courses(runner.message_hub.log_scalars)
        if not courses:
            return None
        path = os.path.join(runner.work_dir, "similarity.png")
        partial = os.path.join(runner.work_dir, ".similarity.png")
        plots.save_courses(partial, courses, LABEL, last=runner.iter)
        os.replace(partial, path)
        return path


def _courses(scalars: dict) -> dict[str, dict[str, np.ndarray]]:
    """tau of each step, by relation and level; the labels come first."""
    courses: dict[str, dict[str, np.ndarray]] = {}
    for key, buffer in scalars.items():
        level, _, relation = key.removeprefix(PREFIX).rpartition("/")
        if key.startswith(PREFIX) and level:
            courses.setdefault(relation, {})[level] = np.array(buffer.data[0], dtype=float)
    return {
        relation: dict(sorted(levels.items(), key=lambda item: item[0] != LABEL))
        for relation, levels in courses.items()
        if LABEL in levels
    }
