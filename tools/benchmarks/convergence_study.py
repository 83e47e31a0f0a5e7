"""Does the online estimate of task similarity arrive at the offline one? (the paper's Figure 4)

Takes the labels, outputs and hidden features of two tasks from a trained checkpoint, which stays
fixed, streams them in shuffled batches through a task relation layer, and compares its tau with
that of the whole data set.

Example:
    python tools/benchmarks/convergence_study.py configs/mtfl/stl_resnet18_mtfl.py CHECKPOINT \\
        --out-dir study
"""

import math
from pathlib import Path

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.running import start
from trn_plugin.errors import ConfigError
from trn_plugin.files import atomic_write, write_table

LEVELS = {"gt": "labels", "output": "predictions", "hidden": "hidden features"}


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out-dir", required=True, help="write CSV and picture here")
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
        help="batches at the most; a momentum of m is followed for 15/(1-m), at least 300",
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.02, help="arrived means this near (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of samples")


def main(args):
    check(args)
    features, tasks, data = read(args)
    rows, courses, panels = [], [], []
    for batch_size in args.batch_sizes:
        panels.append([])
        for level, sides in features.items():
            panel = study(args, level, sides, batch_size, rows, courses)
            panels[-1].append(panel)
    title = f"{tasks[0]} and {tasks[1]}: {data}"
    print(f"{title}\n{report(rows)}")
    write(Path(args.out_dir), rows, courses, panels, title)


def check(args):
    for momentum in args.momenta:
        if not 0 <= momentum < 1:
            raise ConfigError(f"--momenta: expected numbers in [0, 1), found {momentum:g}")
    for name in ("batch_sizes", "iterations"):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value < 2:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag}: expected at least 2, found {value}")


def read(args):
    """{level: (f1, f2)} of the samples with both labels, the two tasks, and what data they are."""
    import numpy as np
    from mmengine.device import get_device
    from tqdm import tqdm

    from trn_plugin.deploy.inference import build_loader, load_model
    from trn_plugin.evaluation.features import collect_features

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
    features = {}
    for level in args.levels:
        f1, f2 = (found[level][task] for task in tasks)
        if f1 is f2:
            print(f"{LEVELS[level]}: left out, both tasks have one and the same")
        elif both.sum() - 1 <= f1.shape[1] + f2.shape[1]:
            print(
                f"{LEVELS[level]}: left out, undefined offline: {both.sum()} samples for "
                f"{f1.shape[1]} + {f2.shape[1]} features"
            )
        else:
            features[level] = f1[both], f2[both]
    if not features:
        raise ConfigError("there is no level at which tau of the whole data set is defined")
    if both.sum() < max(args.batch_sizes):
        raise ConfigError(
            f"--batch-sizes: expected at most {both.sum()}, the samples with both labels, "
            f"found {max(args.batch_sizes)}"
        )
    name = loader.dataset.metainfo["dataset"]
    return features, tasks, f"{name} ({args.split}), {both.sum()} samples"


def study(args, level, sides, batch_size, rows, courses):
    import torch
    from tqdm import tqdm

    from trn_plugin.evaluation.convergence import (
        NEEDED_PER_FEATURE,
        effective_sample_size,
        online_similarity,
    )
    from trn_plugin.evaluation.plots import Course, Panel
    from trn_plugin.relation import chance_similarity, task_similarity

    d1, d2 = (side.shape[1] for side in sides)
    offline = float(task_similarity(*map(torch.from_numpy, sides)))
    needed = NEEDED_PER_FEATURE * (d1 + d2)
    drawn = []
    for momentum in args.momenta:
        length = min(args.iterations, max(300, math.ceil(15 / (1 - momentum))))
        samples = effective_sample_size(batch_size, momentum)
        with tqdm(total=length, desc=f"{level} {batch_size} {momentum}", leave=False) as bar:
            run = online_similarity(
                *sides, batch_size, momentum, length, args.seed, progress=bar.update
            )
        settled = run.settled
        cannot = samples < needed
        arrival = None if cannot else run.arrival(offline, args.tolerance)
        rows.append(
            {
                "level": level,
                "batch": batch_size,
                "m": momentum,
                "d1": d1,
                "d2": d2,
                "samples": round(samples),
                "needed": needed,
                "offline": offline,
                "online": settled.mean(),
                "spread": settled.std(),
                "chance_online": chance_similarity(min(round(samples), len(sides[0])), d1, d2),
                "chance_offline": chance_similarity(len(sides[0]), d1, d2),
                "iterations": length,
                "arrived": arrival,
                "verdict": verdict(cannot, arrival, samples, needed, abs(settled - offline).max()),
            }
        )
        courses += [
            (level, batch_size, momentum, number, tau, samples)
            for number, (tau, samples) in enumerate(zip(run.tau, run.samples, strict=True), 1)
        ]
        drawn.append(Course(f"m {momentum:g}: {samples:.0f}", run.tau, cannot))
    title = f"{LEVELS[level]}, {d1} and {d2}, batch {batch_size}: needs {needed}"
    return Panel(title, offline, rows[-1]["chance_offline"], drawn)


def verdict(cannot, arrival, samples, needed, off):
    if cannot:
        return f"impossible: {samples:.0f} effective samples < {needed}"
    if arrival is None:
        return f"did not arrive: up to {off:.3f} off in the last quarter"
    return f"arrived at iteration {arrival}"


def report(rows):
    from trn_plugin.evaluation.task_metric import table

    names = ("level", "batch", "m", "d1", "d2", "samples", "needed")
    numbers = ("offline", "online", "spread", "chance_online", "chance_offline")
    header = [*names, *(name.replace("_", " ") for name in numbers), "iterations", ""]
    lines = [
        [
            *(str(row[name]) for name in names),
            *("-" if math.isnan(row[name]) else f"{row[name]:.4f}" for name in numbers),
            str(row["iterations"]),
            row["verdict"],
        ]
        for row in rows
    ]
    return table(header, lines, left=(0, len(header) - 1))


def write(folder, rows, courses, panels, title):
    from trn_plugin.evaluation.plots import save_convergence

    known = [{key: None if v != v else v for key, v in row.items()} for row in rows]
    write_table(folder / "convergence.csv", known, option="--out-dir")
    names = ("level", "batch", "m", "iteration", "tau", "samples")
    points = [dict(zip(names, point, strict=True)) for point in courses]
    write_table(folder / "courses.csv", points, option="--out-dir")
    with atomic_write(folder / "convergence.png", "--out-dir") as partial:
        save_convergence(str(partial), panels, title)
    print(f"written to {folder}")


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
