"""Pictures of the worst and of randomly sampled cases of a test run, and its curves."""

from __future__ import annotations

import os

import numpy as np
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from trn_plugin.errors import ConfigError
from trn_plugin.evaluation import case_sheets, plots
from trn_plugin.evaluation.task_metric import key_name, to_array
from trn_plugin.geometry import box_to_image, crop, read_image
from trn_plugin.registry import HOOKS
from trn_plugin.tasks import Line, Task, read_tasks

__all__ = ["CasePicturesHook"]

MARGIN = 0.1  # of the box's larger side; shows points outside the crop


@HOOKS.register_module()
class CasePicturesHook(Hook):
    """Write pictures of a test run below ``out_dir``.

    - ``worst.png``, ``worst/``: the cases with the largest landmark error (interocular); without
      labelled landmarks, those whose labels are least probable;
    - ``sample.png``, ``sample/``: cases sampled at random; in both, truth is green and prediction
      red, with classes as text;
    - ``cumulative_error_<task>.png`` for landmarks, with the curve of the mean shape;
    - ``confusion_<task>.png`` for classes, ``precision_recall_<task>.png`` for attributes,
      ``values_<task>.png`` for values, predicted over true.

    Pictures other than single cases also go to the visualizer's backends, as do the metrics as
    ``test/<key>``. Labels and predictions are stored during the test; the chosen pictures are read
    again at its end. The first process writes the cases of all processes.

    Priority: LOWEST, after the metrics are printed.

    Args:
        out_dir: Folder to write to; created if missing.
        num_worst: Number of worst cases.
        num_sample: Number of sampled cases.
        seed: Of the sampling.

    Raises:
        ConfigError: the test set's metainfo does not describe its tasks.
        OSError: ``out_dir`` cannot be created.
    """

    priority = "LOWEST"

    def __init__(
        self, out_dir: str, num_worst: int = 16, num_sample: int = 16, seed: int = 0
    ) -> None:
        self.out_dir = out_dir
        self.num_worst = num_worst
        self.num_sample = num_sample
        self.seed = seed

    def before_test(self, runner) -> None:
        """Check what :meth:`after_test` needs."""
        self._cases, self._sheets = [], []
        metainfo = getattr(runner.test_loop.dataloader.dataset, "metainfo", None) or {}
        if not metainfo.get("tasks"):
            raise ConfigError("CasePicturesHook: expected 'tasks' in the test set's metainfo")
        if is_main_process():
            os.makedirs(self.out_dir, exist_ok=True)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Store the labels and predictions of each readable picture."""
        for sample in outputs or ():
            if sample.get("unreadable"):
                continue
            self._cases.append(
                dict(
                    img_path=sample.img_path,
                    box=tuple(sample.box),
                    box_source=sample.get("box_source", ""),
                    gt={task: to_array(value) for task, value in sample.gt.items()},
                    pred={task: to_array(value) for task, value in sample.pred.items()},
                )
            )

    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Send the metrics to the visualizer's backends; MMEngine only sends those of training."""
        known = {f"test/{key}": value for key, value in (metrics or {}).items()}
        runner.visualizer.add_scalars({k: v for k, v in known.items() if np.isfinite(v)})

    def after_test(self, runner) -> None:
        """Collect the cases of all processes and write the pictures."""
        dataset = runner.test_loop.dataloader.dataset
        cases = collect_results(self._cases, len(dataset), device="cpu")
        self._cases = []
        if is_main_process() and cases:
            self._write(cases, dataset.metainfo["tasks"])
            for path in self._sheets:
                name = os.path.splitext(os.path.basename(path))[0]
                runner.visualizer.add_image(name, read_image(path))

    def _write(self, cases: list[dict], infos: dict[str, dict]) -> None:
        tasks = {name: task for name, task in read_tasks(infos).items() if name in cases[0]["pred"]}
        spread = {}
        for name, task in tasks.items():
            labelled = [case for case in cases if name in case["gt"]]
            if not labelled:
                continue
            labels, outputs = (np.stack([c[key][name] for c in labelled]) for key in ("gt", "pred"))
            spread[name] = labels.std(axis=0)
            curve = task.curve(labels, outputs, np.array([case["box"] for case in labelled]))
            if curve is not None:
                title = f"{name}, {len(labelled)} pictures"
                own = callable(curve.plot)
                save = curve.plot if own else getattr(plots, f"save_{curve.plot}")
                stem = curve.name or (curve.plot.__name__ if own else curve.plot)
                save(self._sheet(f"{stem}_{key_name(name)}"), **curve.arguments, title=title)
        badness = np.array([_badness(case, tasks, spread) for case in cases])
        known = np.flatnonzero(~np.isnan(badness))
        worst = known[np.argsort(-badness[known], kind="stable")][: self.num_worst]
        sampled = np.random.default_rng(self.seed).permutation(len(cases))[: self.num_sample]
        for group, chosen in (("worst", worst), ("sample", np.sort(sampled))):
            self._cases_of(group, [cases[index] for index in chosen], len(cases), tasks)
        print_log(
            f"Wrote pictures of {len(worst)} worst and {len(sampled)} sampled cases to "
            f"{self.out_dir}",
            logger="current",
        )

    def _cases_of(self, group: str, chosen: list[dict], total: int, tasks: dict) -> None:
        if not chosen:
            return
        pictures = []
        for number, case in enumerate(chosen, start=1):
            picture = _picture(case, tasks)
            stem = key_name(os.path.splitext(os.path.basename(case["img_path"]))[0])
            path = os.path.join(self.out_dir, group, f"{number:03d}_{stem}.png")
            case_sheets.save_cases(path, [picture])
            pictures.append(picture)
        boxes = ", ".join(sorted({case["box_source"] for case in chosen} - {""}))
        title = f"{group}: {len(chosen)} of {total} cases" + (f" (box: {boxes})" if boxes else "")
        case_sheets.save_cases(self._sheet(group), pictures, title)

    def _sheet(self, name: str) -> str:
        self._sheets.append(os.path.join(self.out_dir, f"{name}.png"))
        return self._sheets[-1]


def _badness(case: dict, tasks: dict[str, Task], spread: dict[str, np.ndarray]) -> float:
    """The larger, the worse the case; NaN without any label."""
    errors, likelihoods = [], []
    for name, task in tasks.items():
        if name not in case["gt"]:
            continue
        label, output = case["gt"][name], case["pred"][name]
        error = task.error(label, output, case["box"])
        if error is not None:
            errors.append(error)
        likelihoods.extend(task.likelihoods(label, output, spread[name]))
    if errors:
        return float(np.max(errors))
    return -float(np.mean(np.log(np.maximum(likelihoods, 1e-12)))) if likelihoods else np.nan


def _picture(case: dict, tasks: dict[str, Task]) -> case_sheets.Case:
    """The crop with a margin, its points and its text."""
    x0, y0, x1, y1 = (int(value) for value in case["box"])
    margin = round(MARGIN * max(x1 - x0, y1 - y0))
    corner = np.array([x0 - margin, y0 - margin])
    image = crop(read_image(case["img_path"]), (*corner.tolist(), x1 + margin, y1 + margin))
    points = {"gt": None, "pred": None}
    for key in points:
        own = [task.points(case[key][name]) for name, task in tasks.items() if name in case[key]]
        found = [box_to_image(each, case["box"]) - corner for each in own if len(each)]
        points[key] = np.concatenate(found) if found else None
    lines = [Line(os.path.basename(case["img_path"]))]
    for name, task in tasks.items():
        lines += task.case_lines(case["gt"].get(name), case["pred"][name], case["box"])
    frame = (margin, margin, margin + x1 - x0, margin + y1 - y0)
    return case_sheets.Case(image, points["gt"], points["pred"], frame, lines)
