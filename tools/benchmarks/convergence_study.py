"""Does the online estimate of task similarity converge to the offline one? (the paper's Figure 4)

Collects labels, outputs and hidden features of two tasks from a trained, fixed checkpoint, streams
them in shuffled batches through a task relation layer, and compares its tau with that of the whole
data set.

Example:
    python tools/benchmarks/convergence_study.py configs/mtfl/stl_resnet18_mtfl.py CHECKPOINT \\
        --out-dir study
"""

import math
from pathlib import Path

import numpy as np
import torch
from mmengine.device import get_device
from tqdm import tqdm

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.running import start
from trn_plugin.engine.inference import build_loader, load_model
from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.convergence import (
    NEEDED_PER_FEATURE,
    effective_sample_size,
    online_similarity,
)
from trn_plugin.evaluation.features import collect_features
from trn_plugin.evaluation.similarity_plots import Course, Panel, save_convergence
from trn_plugin.evaluation.task_metric import table
from trn_plugin.files import atomic_write, write_table
from trn_plugin.relation import chance_similarity, task_similarity

LEVELS = {"gt": "labels", "output": "predictions", "hidden": "hidden features"}
TOLERANCE = 0.02  # of tau, within which the online estimate has arrived


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out-dir", required=True, help="write CSV files and the plot here")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument(
        "--tasks", nargs=2, metavar="TASK", help="default: the model's first two tasks"
    )
    parser.add_argument("--levels", nargs="+", choices=tuple(LEVELS), default=list(LEVELS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--momenta", nargs="+", type=float, default=[0.9, 0.99, 0.999])
    parser.add_argument(
        "--iterations",
        type=int,
        default=5000,
        help="maximal number of batches (%(default)s); a momentum m gets 15/(1-m) batches, at "
        "least 300",
    )


def main(args):
    if not all(0 <= m < 1 for m in args.momenta):
        raise ConfigError(f"--momenta: expected numbers in [0, 1), found {max(args.momenta):g}")
    if min(args.batch_sizes) < 2:
        raise ConfigError(f"--batch-sizes: expected at least 2, found {min(args.batch_sizes)}")
    features, tasks, data = read(args)
    rows, courses, panels = [], [], []
    for batch_size in args.batch_sizes:
        panels.append([])
        for level, sides in features.items():
            panels[-1].append(study(args, level, sides, batch_size, rows, courses))
    title, folder = f"{tasks[0]} and {tasks[1]}: {data}", Path(args.out_dir)
    print(f"{title}\n{report(rows)}")
    known = [{key: None if v != v else v for key, v in row.items()} for row in rows]
    write_table(folder / "convergence.csv", known, option="--out-dir")
    write_table(folder / "courses.csv", courses, option="--out-dir")
    with atomic_write(folder / "convergence.png", "--out-dir") as partial:
        save_convergence(str(partial), panels, title)
    print(f"written to {folder}")


def read(args):
    """{level: (f1, f2)} of the samples with both labels, the two tasks, and the data's name."""
    config = load_config(args.config, args.cfg_options)
    model, _ = load_model(config, args.checkpoint)
    tasks = tuple(args.tasks or model.tasks[:2])
    for task in tasks:
        if task not in model.tasks:
            raise ConfigError(
                f"--tasks: the model has no task {task!r}; it has {', '.join(model.tasks)}"
            )
    if len(set(tasks)) < 2:
        raise ConfigError(f"--tasks: expected two different tasks, found {', '.join(tasks)}")
    loader = build_loader(config, args.split)
    found = collect_features(model.to(get_device()), tqdm(loader, args.split, leave=False))
    both = np.all([np.isfinite(found["gt"][task]).all(1) for task in tasks], axis=0)
    count, features = both.sum(), {}
    for level in args.levels:
        f1, f2 = (found[level][task] for task in tasks)
        d1, d2 = f1.shape[1], f2.shape[1]
        if f1 is f2:
            print(f"{LEVELS[level]}: left out, both tasks have the same features")
        elif count - 1 <= d1 + d2:
            undefined = f"undefined offline: {count} samples for {d1} + {d2} features"
            print(f"{LEVELS[level]}: left out, {undefined}")
        else:
            features[level] = f1[both], f2[both]
    if not features:
        raise ConfigError("found no level at which tau of the whole data set is defined")
    if count < max(args.batch_sizes):
        raise ConfigError(
            f"--batch-sizes: expected at most {count}, the samples with both labels, "
            f"found {max(args.batch_sizes)}"
        )
    return features, tasks, f"{loader.dataset.metainfo['dataset']} ({args.split}), {count} samples"


def study(args, level, sides, batch_size, rows, courses):
    """Run the online estimate with all momenta; add rows to both tables."""
    d1, d2 = (side.shape[1] for side in sides)
    offline = float(task_similarity(*map(torch.from_numpy, sides)))
    needed, chance = NEEDED_PER_FEATURE * (d1 + d2), chance_similarity(len(sides[0]), d1, d2)
    followed = []
    for momentum in args.momenta:
        length = min(args.iterations, max(300, math.ceil(15 / (1 - momentum))))
        samples = effective_sample_size(batch_size, momentum)
        with tqdm(total=length, desc=f"{level} {batch_size} {momentum}", leave=False) as bar:
            run = online_similarity(*sides, batch_size, momentum, length, 0, progress=bar.update)
        arrival, off = run.arrival(offline, TOLERANCE), abs(run.settled - offline).max()
        verdict = f"arrived at iteration {arrival}"
        if samples < needed:
            arrival, verdict = None, f"impossible: {samples:.0f} effective samples < {needed}"
        elif arrival is None:
            verdict = f"did not arrive: up to {off:.3f} off in the last quarter"
        which = {"level": level, "batch": batch_size, "m": momentum}
        rows.append(
            {
                **which,
                **{"d1": d1, "d2": d2, "samples": round(samples), "needed": needed},
                **{"offline": offline, "online": run.settled.mean(), "spread": run.settled.std()},
                "chance_online": chance_similarity(min(round(samples), len(sides[0])), d1, d2),
                "chance_offline": chance,
                **{"iterations": length, "arrived": arrival, "verdict": verdict},
            }
        )
        for number, (tau, samples_then) in enumerate(zip(run.tau, run.samples, strict=True), 1):
            courses.append({**which, "iteration": number, "tau": tau, "samples": samples_then})
        followed.append(Course(f"m {momentum:g}: {samples:.0f}", run.tau, samples < needed))
    title = f"{LEVELS[level]}, {d1} and {d2}, batch {batch_size}: needs {needed}"
    return Panel(title, offline, chance, followed)


def report(rows):
    names = [name for name in rows[0] if name != "arrived"]

    def cell(value):
        if not isinstance(value, float):
            return str(value)
        return "-" if math.isnan(value) else f"{value:.4f}".rstrip("0")

    lines = [[cell(row[name]) for name in names] for row in rows]
    header = [name.replace("_", " ") for name in names]
    return table([*header[:-1], ""], lines, left=(0, len(header) - 1))


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
