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
from trn_plugin.evaluation.similarity_plots import Curve, Panel, save_convergence
from trn_plugin.evaluation.task_metric import table
from trn_plugin.files import atomic_write, write_table
from trn_plugin.relation import chance_similarity, task_similarity

LEVELS = {"gt": "labels", "output": "predictions", "hidden": "hidden features"}
TOLERANCE = 0.02  # of tau; the online estimate has arrived when it stays within


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out-dir", required=True, help="write the CSV file and the plot here")
    parser.add_argument(
        "--tasks", nargs=2, metavar="TASK", help="default: the model's first two tasks"
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--momenta", nargs="+", type=float, default=[0.9, 0.99, 0.999])
    parser.add_argument(
        "--iterations",
        type=int,
        default=5000,
        help="most batches of a run (%(default)s); momentum m takes 15/(1-m), at least 300",
    )


def main(args):
    features, tasks, data = read(args)
    rows, panels = [], []
    for batch_size in args.batch_sizes:
        panels.append([])
        for level, sides in features.items():
            found, panel = study(args, level, sides, batch_size)
            rows += found
            panels[-1].append(panel)
    title, folder = f"{tasks[0]} and {tasks[1]}: {data}", Path(args.out_dir)
    columns = list(rows[0])
    lines = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    print(f"{title}\n{table(columns, lines, left=(0, len(columns) - 1))}")
    write_table(folder / "convergence.csv", rows, option="--out-dir")
    with atomic_write(folder / "convergence.png", "--out-dir") as partial:
        save_convergence(str(partial), panels, title)
    print(f"written to {folder}")


def read(args):
    """{level: (f1, f2)} of the samples with both labels, the two tasks, and the data's name."""
    config = load_config(args.config, args.cfg_options)
    model, _ = load_model(config, args.checkpoint)
    tasks = tuple(args.tasks or model.tasks[:2])
    if len({*tasks} & {*model.tasks}) < 2:
        known = ", ".join(model.tasks)
        raise ConfigError(f"--tasks: expected two of {known}, found {', '.join(tasks)}")
    loader = build_loader(config, "train")
    found = collect_features(model.to(get_device()), tqdm(loader, leave=False))
    both = np.all([np.isfinite(found["gt"][task]).all(1) for task in tasks], axis=0)
    count, features = both.sum(), {}
    if count < max(args.batch_sizes):
        raise ConfigError(
            f"--batch-sizes: expected at most {count}, the samples with both labels, "
            f"found {max(args.batch_sizes)}"
        )
    for level, name in LEVELS.items():
        f1, f2 = (found[level][task] for task in tasks)
        d1, d2 = f1.shape[1], f2.shape[1]
        if f1 is f2:
            print(f"{name}: left out, both tasks have the same features")
        elif count - 1 <= d1 + d2:
            print(f"{name}: left out, undefined offline: {count} samples for {d1} + {d2} features")
        else:
            features[level] = f1[both], f2[both]
    if not features:
        raise ConfigError("tau of the whole data set is undefined at every level")
    return features, tasks, f"{loader.dataset.metainfo['dataset']}, {count} samples"


def study(args, level, sides, batch_size):
    """Run the online estimate with all momenta; return the table's rows and the plot's panel."""
    d1, d2 = (side.shape[1] for side in sides)
    offline = float(task_similarity(*map(torch.from_numpy, sides)))
    needed, chance = NEEDED_PER_FEATURE * (d1 + d2), chance_similarity(len(sides[0]), d1, d2)
    rows, curves = [], []
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
        rows.append(
            {
                **{"level": level, "batch": batch_size, "m": momentum},
                **{"d1": d1, "d2": d2, "samples": round(samples), "needed": needed},
                **{"offline": offline, "online": run.settled.mean(), "spread": run.settled.std()},
                "chance_online": chance_similarity(min(round(samples), len(sides[0])), d1, d2),
                "chance_offline": chance,
                **{"iterations": length, "arrived": arrival, "verdict": verdict},
            }
        )
        curves.append(Curve(f"m {momentum:g}: {samples:.0f}", run.tau, samples < needed))
    title = f"{LEVELS[level]}, {d1} and {d2}, batch {batch_size}: needs {needed}"
    return rows, Panel(title, offline, chance, curves)


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
