"""Check that timm's models, cut at every stage boundary, give the same outputs as the uncut ones.

For each model and boundary, compares evaluation mode, training mode (with the same random numbers)
and gradients with the uncut model, at the smallest input size that the model accepts. Also exports
the model cut before its last stage, and runs the file with onnxruntime. Prints a table and writes a
CSV file; models that are already in it are not checked again.

Example:
    python tools/benchmarks/check_backbones.py "resnet*" vit_tiny_patch16_224 --out backbones.csv
    python tools/benchmarks/check_backbones.py --smallest --out backbones.csv
"""

import collections
import csv
import fnmatch
import logging
import multiprocessing
import os
import resource
import sys
import time
import warnings

import timm
import torch
from backbone_check import check_backbone, failed

from trn_plugin.cli.running import start
from trn_plugin.errors import ConfigError, first_line
from trn_plugin.evaluation.task_metric import table
from trn_plugin.files import write_table

COLUMNS = (
    *("file", "model", "params", "img_size", "boundaries", "eval", "train", "gradient", "outcome"),
    *("onnx", "onnx_outcome", "seconds"),
)
MOST_PARAMS = 150e6


def add_arguments(parser):
    parser.add_argument("names", nargs="*", help="timm's model names, or patterns like 'resnet*'")
    parser.add_argument(
        "--smallest", action="store_true", help="the smallest model of each of timm's source files"
    )
    parser.add_argument("--out", default="backbones.csv", help="CSV (%(default)s)")
    parser.add_argument(
        "--time-limit", type=float, default=600, help="seconds for a model (%(default)s)"
    )
    parser.add_argument(
        "--memory-limit", type=float, default=10, help="GiB for a model (%(default)s)"
    )


def main(args):
    chosen = choose(args)
    rows = read(args.out)
    todo = [name for name in chosen if name not in rows]
    for index, name in enumerate(todo, 1):
        print(f"[{index}/{len(todo)}] {name} ...", end=" ", flush=True)
        rows[name] = row = in_own_process(name, args)
        write_table(args.out, sorted(rows.values(), key=lambda row: (row["file"], row["model"])))
        onnx = f", onnx {row['onnx_outcome']}" if row["outcome"] == "ok" else ""
        print(f"{row['outcome']}{onnx} ({row['seconds']} s)", flush=True)
    report([rows[name] for name in chosen if name in rows])


def choose(args) -> list[str]:
    """The models to check; patterns and --smallest skip models over MOST_PARAMS."""
    known = timm.list_models()
    if args.smallest == bool(args.names):
        raise ConfigError("expected either names of models or --smallest")
    if args.smallest:
        by_file = collections.defaultdict(list)
        print(f"counting the parameters of {len(known)} models ...", flush=True)
        for name in known:
            by_file[file_of(name)].append((count_parameters(name), name))
        smallest = [min(models) for _, models in sorted(by_file.items())]
        return [name for params, name in smallest if params <= MOST_PARAMS]
    names = []
    for pattern in args.names:
        found = fnmatch.filter(known, pattern)
        if not found:
            raise ConfigError(f"timm has no model {pattern!r}")
        names += [n for n in found if n == pattern or count_parameters(n) <= MOST_PARAMS]
    return names


def count_parameters(name: str) -> float:
    """Parameters without the classifier; infinite if the model cannot be built on device meta."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())
    except Exception:  # some models compute with their weights when they are built
        return float("inf")


def file_of(name: str) -> str:
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def in_own_process(name: str, args) -> dict:
    """Check a model in a separate process with limits of time and memory; return its row."""
    begun = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(1, prepare, (args.memory_limit,)) as pool:
        try:
            row = pool.apply_async(check_backbone, (name,)).get(args.time_limit)
        except multiprocessing.TimeoutError:  # also after a crash of the process
            row = failed(f"not done after {args.time_limit:.0f} s")
        except Exception as error:  # any error is reported in this model's row
            row = failed(f"{type(error).__name__}: {first_line(error)}")
    seconds = round(time.monotonic() - begun, 1)
    return dict.fromkeys(COLUMNS, "") | row | dict(file=file_of(name), model=name, seconds=seconds)


def prepare(memory_limit: float) -> None:
    """Limit the memory of this process, and print nothing."""
    memory = int(memory_limit * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    warnings.simplefilter("ignore")
    logging.disable()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def read(path: str) -> dict[str, dict]:
    if not os.path.exists(path):
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def report(rows: list[dict]) -> None:
    columns = COLUMNS[1:-1]
    cells = [[str(row[c])[:60] for c in columns] for row in rows]
    print("\n" + table(list(columns), cells, left=(0, 7, 9)))
    good = [row for row in rows if row["outcome"] == "ok"]
    exported = sum(row["onnx_outcome"] == "ok" for row in rows)
    boundaries = sum(int(row["boundaries"]) for row in good)
    print(
        f"\n{len(rows)} models: {len(good)} agree at every boundary ({boundaries} in all), "
        f"{exported} as ONNX"
    )


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
