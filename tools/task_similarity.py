"""Measure how related a data set's labels are, task by task (the paper's Figure 3).

Example:
    python tools/task_similarity.py configs/toy/mtl_test-resnet_toy.py --out-dir similarity
"""

import argparse
import csv
import json
import math
from pathlib import Path

from trn_plugin.engine import cli
from trn_plugin.engine.building import config_errors
from trn_plugin.errors import ConfigError


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_config_arguments(parser)
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        default="train",
        help="which data (%(default)s)",
    )
    parser.add_argument("--tasks", nargs="+", help="these only (default: all of the data set)")
    parser.add_argument("--out-dir", help="write similarity.csv, .json and .png here")
    return parser.parse_args()


def main():
    args = parse_args()
    from trn_plugin.evaluation.label_similarity import label_features, label_similarity
    from trn_plugin.registry import DATASETS
    from trn_plugin.relation import chance_similarity

    config = cli.load_config(args.config, args.cfg_options)
    loader = config.get(f"{args.split}_dataloader")
    if not loader:
        raise ConfigError(f"{args.config}: has no {args.split}_dataloader")
    settings = dict(loader.dataset, tasks=args.tasks)
    with config_errors(f"{args.split}_dataloader.dataset"):
        dataset = DATASETS.build(settings)
    records = [dataset.get_data_info(index) for index in range(len(dataset))]
    features = label_features(records, dataset.metainfo["tasks"])
    tau, counts = label_similarity(features)
    names = list(features)
    pairs = [
        {
            "a": names[i],
            "b": names[j],
            "tau_gt": None if math.isnan(tau[i, j]) else round(float(tau[i, j]), 6),
            "chance": chance(
                chance_similarity, counts[i, j], features[names[i]], features[names[j]]
            ),
            "N": int(counts[i, j]),
        }
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
    pairs.sort(key=lambda pair: -(pair["tau_gt"] if pair["tau_gt"] is not None else -1))
    report(pairs)
    if args.out_dir:
        write(Path(args.out_dir), pairs, names, tau)


def chance(chance_similarity, n, first, second):
    level = chance_similarity(int(n), first.shape[1], second.shape[1])
    return None if math.isnan(level) else round(level, 6)


def report(pairs, listed=10):
    print(f"{len(pairs)} pairs, most related first")
    shown = pairs if len(pairs) <= 2 * listed else [*pairs[:listed], None, *pairs[-listed:]]
    for pair in shown:
        if pair is None:
            print("  ...")
            continue
        tau = "undefined" if pair["tau_gt"] is None else f"{pair['tau_gt']:.4f}"
        level = "-" if pair["chance"] is None else f"{pair['chance']:.4f}"
        print(f"  {tau:>9}  chance {level}  N {pair['N']}  {pair['a']} - {pair['b']}")


def write(folder, pairs, names, tau):
    from trn_plugin.evaluation.plots import save_similarity

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "similarity.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, fieldnames=["a", "b", "tau_gt", "chance", "N"])
            rows.writeheader()
            rows.writerows(pairs)
        (folder / "similarity.json").write_text(json.dumps(pairs, indent=2) + "\n")
        save_similarity(str(folder / "similarity.png"), tau, names)
    except OSError as error:
        raise ConfigError(f"--out-dir {folder}: cannot be written: {error.strerror}") from error
    print(f"written to {folder}")


if __name__ == "__main__":
    cli.run(main)
