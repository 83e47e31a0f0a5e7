"""Regret of policies that choose a cut before training, from the runs of a sweep over cuts.

Reads runs.csv of a `trn-plugin sweep` over model.backbone.shared_stages and another key. For each
cut, the other key's value is chosen on the validation set. A cut's error is the mean relative
difference of its metrics from those of sharing nothing, in percent (a metric where more is better
counts as 100 minus its value). Regret is a policy's error minus the best cut's error.

Example:
    python tools/benchmarks/sharing_regret.py docs/results/runs_sharing.csv --advice 5
"""

import csv
from collections import defaultdict
from statistics import fmean, stdev

from trn_plugin.cli.running import start
from trn_plugin.directions import rule_of
from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.task_metric import table

KEY = "model.backbone.shared_stages="
SPLITS = {"val": "validation set", "test": "test half"}


def add_arguments(parser):
    parser.add_argument("runs", help="runs.csv of the sweep")
    parser.add_argument("--advice", type=int, metavar="K", help="advised number of shared stages")
    parser.add_argument("--metrics", nargs="+", default=["landmarks/NME", "pose/accuracy"])


def main(args):
    values = read(args.runs, args.metrics)
    chosen = chosen_values(values["val"], args)
    for split, name in SPLITS.items():
        if split in values:
            runs = {cut: values[split][cut, value] for cut, value in chosen.items()}
            print(f"{name}:\n{regrets(runs, chosen, args)}\n")


def read(path, metrics):
    """{split: {(cut, value of the other key): metrics of each seed}}."""
    values = defaultdict(lambda: defaultdict(list))
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            setting = next(o for o in row["settings"].split() if o.startswith(KEY))
            other = ", ".join(p for p in row["row"].split(", ") if not p.startswith("shared_"))
            key = int(setting.removeprefix(KEY)), other
            values[row["split"]][key].append([float(row[m]) for m in metrics])
    if all(cut != 0 for cut, _ in values["val"]):
        raise ConfigError(f"{path}: expected runs that share nothing, measured on the val set")
    return values


def errors_of(runs, args):
    """Each metric's mean error over the seeds."""
    means = map(fmean, zip(*runs, strict=True))
    return [
        m if rule_of(k) == "less" else 100 - m for k, m in zip(args.metrics, means, strict=True)
    ]


def relative(errors, reference):
    """Mean over the metrics of the relative difference, in percent."""
    return 100 * fmean(v / r - 1 for v, r in zip(errors, reference, strict=True))


def chosen_values(validation, args):
    """For each cut, the other key's value with the smallest error on the validation set."""
    reference = errors_of(next(runs for (cut, _), runs in validation.items() if cut == 0), args)
    errors = defaultdict(dict)
    for (cut, value), runs in validation.items():
        errors[cut][value] = relative(errors_of(runs, args), reference)
    return {cut: min(by_value, key=by_value.get) for cut, by_value in sorted(errors.items())}


def regrets(runs, chosen, args):
    errors = {cut: errors_of(by_seed, args) for cut, by_seed in runs.items()}
    error = {cut: relative(each, errors[0]) for cut, each in errors.items()}
    last = max(error)
    policies = {0: "always 0", last - 1: "always -1", last: "always all"}
    lines = []
    for cut in error:
        names = [policies.get(cut, ""), "advice" if cut == args.advice else ""]
        spreads = [(fmean(v), stdev(v) if len(v) > 1 else 0) for v in zip(*runs[cut], strict=True)]
        lines.append(
            [
                str(cut),
                chosen[cut],
                str(len(runs[cut])),
                *(f"{mean:.2f} ± {spread:.2f}" for mean, spread in spreads),
                f"{error[cut]:+.2f}",
                f"{error[cut] - min(error.values()):.2f}",
                ", ".join(filter(None, names)),
            ]
        )
    header = ["shared", "chosen", "seeds", *args.metrics, "error (%)", "regret", "policy"]
    return table(header, lines, left=(1, len(header) - 1))


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
