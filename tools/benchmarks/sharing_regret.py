"""Regret of policies that choose a cut before training, from the runs of a sweep over cuts.

Reads runs.csv of a `trn-plugin sweep` over model.backbone.shared_stages and another key. For each
cut, the other key's value is chosen on the validation set. A cut's error is the metrics' relative
difference from sharing nothing, averaged over the tasks, in percent (a metric of which more is
better counts as 100 minus its value). Regret is a policy's error minus the best cut's error.

Example:
    python tools/benchmarks/sharing_regret.py docs/results/runs_sharing.csv --advice 5
"""

import csv
import statistics
from collections import defaultdict

from trn_plugin.cli.running import start
from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.directions import rule_of
from trn_plugin.evaluation.task_metric import table

KEY = "model.backbone.shared_stages="
SPLITS = {"val": "validation set", "test": "test half"}


def add_arguments(parser):
    parser.add_argument("runs", help="runs.csv of the sweep")
    parser.add_argument("--advice", type=int, metavar="K", help="advised number of shared stages")
    parser.add_argument("--metrics", nargs="+", default=["landmarks/NME", "pose/accuracy"])


def main(args):
    errors = read(args.runs, args.metrics)
    for split, name in SPLITS.items():
        if errors.get(split):
            print(f"{name}:\n{regrets(errors, split, args)}\n")


def read(path, metrics):
    """The metrics as errors, by split, cut, value of the other key, and seed."""
    errors = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cut = next(o for o in row["settings"].split() if o.startswith(KEY))
            other = ", ".join(p for p in row["row"].split(", ") if not p.startswith("shared_"))
            values = [
                float(row[m]) if rule_of(m) == "less" else 100 - float(row[m]) for m in metrics
            ]
            errors[row["split"]][int(cut.removeprefix(KEY))][other][int(row["seed"])] = values
    if not errors or 0 not in errors["val"]:
        raise ConfigError(f"{path}: expected runs that share nothing, measured on the val set")
    return errors


def relative(values, reference):
    """Mean over the metrics of the relative difference, in percent."""
    return 100 * statistics.fmean(v / r - 1 for v, r in zip(values, reference, strict=True))


def means(by_seed):
    return [statistics.fmean(values) for values in zip(*by_seed.values(), strict=True)]


def chosen_values(validation):
    """For each cut, the other key's value with the smallest error on the validation set.

    Compared over the seeds that all values of the cut have.
    """
    reference = means(next(iter(validation[0].values())))
    chosen = {}
    for cut, by_value in sorted(validation.items()):
        seeds = set.intersection(*(set(by_seed) for by_seed in by_value.values()))
        errors = {
            value: relative(means({seed: by_seed[seed] for seed in seeds}), reference)
            for value, by_seed in by_value.items()
        }
        chosen[cut] = min(errors, key=errors.get)
    return chosen


def regrets(errors, split, args):
    chosen = chosen_values(errors["val"])
    runs = {cut: errors[split][cut][value] for cut, value in chosen.items()}
    reference = means(runs[0])
    error = {cut: relative(means(by_seed), reference) for cut, by_seed in runs.items()}
    least, last = min(error.values()), max(error)
    policies = {0: "always 0", last - 1: "always -1", last: "always all"}
    lines = []
    for cut, by_seed in runs.items():
        values = [list(column) for column in zip(*by_seed.values(), strict=True)]
        shown = [
            v if rule_of(m) == "less" else [100 - x for x in v]
            for m, v in zip(args.metrics, values, strict=True)
        ]
        cells = [
            f"{statistics.fmean(v):.2f} ± {statistics.stdev(v) if len(v) > 1 else 0:.2f}"
            for v in shown
        ]
        names = [policies.get(cut, ""), "advice" if cut == args.advice else ""]
        seeds = str(len(by_seed))
        lines.append(
            [
                str(cut),
                chosen[cut],
                seeds,
                *cells,
                f"{error[cut]:+.2f}",
                f"{error[cut] - least:.2f}",
                ", ".join(filter(None, names)),
            ]
        )
    header = ["shared", "chosen", "seeds", *args.metrics, "error (%)", "regret", "policy"]
    return table(header, lines, left=(1, len(header) - 1))


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
