"""Check that timm's models, cut at every stage boundary, still compute what the uncut ones do.

For each model: every boundary in evaluation and in training mode (with the same random numbers)
and the gradients against the uncut model, and one boundary exported and run by onnxruntime, at the
smallest pictures that the model takes. Prints a table and writes a CSV; models that are already in
the CSV are not checked again.

Example:
    python tools/benchmarks/check_backbones.py "resnet*" vit_tiny_patch16_224 --out backbones.csv
    python tools/benchmarks/check_backbones.py --smallest --out backbones.csv
"""

import collections
import contextlib
import csv
import fnmatch
import multiprocessing
import os
import queue
import resource
import time
from pathlib import Path

from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.running import one_line, start
from trn_plugin.errors import ConfigError
from trn_plugin.files import write_table

UNTRIED = "not tried"
COLUMNS = (
    "file",
    "model",
    "params",
    "img_size",
    "boundaries",
    "eval",
    "train",
    "gradient",
    "outcome",
    "onnx",
    "onnx_outcome",
    "seconds",
)


def add_arguments(parser):
    parser.add_argument("names", nargs="*", help="timm's names or patterns such as 'resnet*'")
    parser.add_argument(
        "--smallest", action="store_true", help="the smallest model of each of timm's files"
    )
    parser.add_argument(
        "--max-params", type=float, default=150e6, help="leave out larger models (default 150e6)"
    )
    parser.add_argument("--out", default="backbones.csv", help="CSV (default backbones.csv)")
    parser.add_argument(
        "--img-size", type=positive_int, help="side of the pictures (default: smallest)"
    )
    parser.add_argument("--no-onnx", action="store_true", help="no export")
    parser.add_argument(
        "--retry", action="store_true", help="check those again that failed in the CSV"
    )
    parser.add_argument("--limit", type=positive_int, metavar="N", help="stop after N models")
    parser.add_argument(
        "--time-limit", type=float, default=600, help="seconds for a model (default 600)"
    )
    parser.add_argument(
        "--memory-limit", type=float, default=10, help="GiB for a model (default 10)"
    )


def main(args):
    chosen = choose(args)
    rows = read(args.out)
    todo = [name for name in chosen if not is_answered(rows.get(name), args)][: args.limit]
    context = multiprocessing.get_context("forkserver")
    # imported once, so that a model's own process starts at once
    context.set_forkserver_preload(["backbone_check", "torch._dynamo"])
    for index, name in enumerate(todo, 1):
        print(f"[{index}/{len(todo)}] {name} ...", end=" ", flush=True)
        rows[name] = check(context, name, args)
        write_table(args.out, sorted(rows.values(), key=lambda row: (row["file"], row["model"])))
        print(f"{told(rows[name])} ({rows[name]['seconds']} s)", flush=True)
    print_table([rows[name] for name in chosen if name in rows])


def is_answered(row: dict | None, args) -> bool:
    """Whether a row of the CSV is of the check that is asked for."""
    if row is None or (args.img_size and int(row["img_size"] or 0) != args.img_size):
        return False
    if args.retry and (row["outcome"] != "ok" or row["onnx_outcome"] not in ("ok", UNTRIED)):
        return False
    return args.no_onnx or row["onnx_outcome"] != UNTRIED


def choose(args) -> list[str]:
    """The models to check, in the order of timm's files."""
    import timm

    known = timm.list_models()
    if args.smallest == bool(args.names):
        raise ConfigError("expected either names of models or --smallest")
    if args.smallest:
        return smallest(known, args.max_params, Path(args.out).with_suffix(".params.csv"))
    names = []
    for pattern in args.names:
        found = fnmatch.filter(known, pattern)
        if not found:
            raise ConfigError(f"timm has no model {pattern!r}")
        names += found
    if len(args.names) == len(names):
        return names
    return [name for name in names if 0 <= count_parameters(name) <= args.max_params]


def smallest(known: list[str], max_params: float, counted: Path) -> list[str]:
    """Of each of timm's model files the model with the fewest parameters.

    Counting takes minutes, so the counts are kept in the file ``counted``.
    """
    counts = {}
    if counted.exists():
        with open(counted, newline="", encoding="utf-8") as file:
            counts = {row["model"]: int(row["params"]) for row in csv.DictReader(file)}
    new = [name for name in known if name not in counts]
    for index, name in enumerate(new, 1):
        counts[name] = count_parameters(name)
        if index % 100 == 0 or index == len(new):
            print(f"counting parameters: {index}/{len(new)}", flush=True)
            write_table(counted, [dict(model=m, params=n) for m, n in counts.items()])
    by_file = collections.defaultdict(list)
    for name in known:
        by_file[file_of(name)].append((counts[name], name))
    found = []
    for file, models in sorted(by_file.items()):
        models = [m for m in models if m[0] >= 0]
        if not models or min(models)[0] > max_params:
            print(f"{file}: no model up to {max_params / 1e6:.0f} M parameters", flush=True)
        else:
            found.append(min(models)[1])
    return found


def count_parameters(name: str) -> int:
    """Without its classifier; -1 where timm cannot build the model without memory."""
    import timm
    import torch

    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())
    except Exception:  # some models compute with their weights when they are built
        return -1


def file_of(name: str) -> str:
    import timm

    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def check(context, name: str, args) -> dict:
    """One row, made by a process of its own that may run out of time or memory."""
    start = time.monotonic()
    answers = context.Queue()
    options = dict(img_size=args.img_size, onnx=not args.no_onnx)
    process = context.Process(
        target=work, args=(answers, name, options, int(args.memory_limit * 2**30))
    )
    process.start()
    row = None
    while row is None:
        try:
            row = answers.get(timeout=0.5)
        except queue.Empty:
            if time.monotonic() - start > args.time_limit:
                row = failed(f"not done after {args.time_limit:.0f} s")
            elif not process.is_alive() and answers.empty():
                row = failed(f"the process ended with {process.exitcode}")
    process.join(5)  # one that has answered is about to end
    process.kill()
    process.join()
    seconds = round(time.monotonic() - start, 1)
    return dict.fromkeys(COLUMNS, "") | row | dict(file=file_of(name), model=name, seconds=seconds)


def failed(reason: str) -> dict:
    return dict(outcome=reason, onnx_outcome=reason)


def work(answers, name: str, options: dict, memory: int) -> None:
    import logging
    import warnings

    from backbone_check import check_backbone

    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    warnings.simplefilter("ignore")
    logging.disable()
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            report = check_backbone(name, **options)
        reasons = report.failures
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        row = dict(
            params=report.params,
            img_size=report.img_size,
            boundaries=report.boundaries,
            eval=f"{report.eval:.1e}",
            train=f"{report.train:.1e}",
            gradient=f"{report.gradient:.1e}",
            outcome=reasons[0] + more if reasons else "ok",
            onnx=f"{report.onnx:.1e}",
            onnx_outcome=report.onnx_failure or "ok" if options["onnx"] else UNTRIED,
        )
    except MemoryError:
        row = failed("not enough memory")
    except Exception as error:  # whatever it is belongs to this model's row
        row = failed(one_line(error))
    answers.put(row)


def read(path: str) -> dict[str, dict]:
    if not os.path.exists(path):
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and tuple(rows[0]) != COLUMNS:
        raise ConfigError(f"{path}: not written by this tool; give another --out")
    return {row["model"]: row for row in rows}


def told(row: dict) -> str:
    if row["outcome"] != "ok":
        return row["outcome"]
    return f"{row['boundaries']} boundaries ok, onnx {row['onnx_outcome']}"


def print_table(rows: list[dict]) -> None:
    columns = COLUMNS[1:-1]
    table = [columns] + [tuple(str(row[c])[:60] for c in columns) for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    print()
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join(cells).rstrip())
    good = sum(row["outcome"] == "ok" for row in rows)
    exported = sum(row["onnx_outcome"] == "ok" for row in rows)
    boundaries = sum(int(row["boundaries"] or 0) for row in rows if row["outcome"] == "ok")
    print(
        f"\n{len(rows)} models: {good} agree at every boundary ({boundaries} in all), "
        f"{exported} as ONNX"
    )


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
