"""Compare the results of two commits bit for bit: train, resume, test, export and predict.

Both commits run their command-line tools with the toy configs, on the same pictures and one thread:
train STL, MTL, TRN (output) and TRN (hidden and output); then resume the last one from its first
epoch, test it, export it and predict with the exported file. Losses and tau by step, checkpoints,
metrics, metadata, JSON lines, CSV and drawings are compared; times and checksums are ignored. HEAD
is the working tree by default. Exits with 1 on a difference that no --allow explains, with 2 if a
job fails.

Examples:
    python tools/compare_commits.py main
    python tools/compare_commits.py HEAD~3 HEAD \\
        --allow "*/checkpoint/meta/cfg=point 4 of the issue renames an option"
"""

import csv
import fnmatch
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from trn_plugin.cli.running import start
from trn_plugin.errors import ConfigError, TrnPluginError

ROOT = Path(__file__).resolve().parents[1]
JOBS = ("stl", "mtl", "trn-output", "trn-hidden-output")
TRN = JOBS[-1]
EPOCHS = 2
OPTIONS = [
    "input_size=32",
    "default_hooks.logger.interval=1",
    "log_processor.window_size=1",  # otherwise the log holds means over 20 steps
    f"train_cfg.max_epochs={EPOCHS}",
    "train_cfg.val_interval=1",
]
LOADER = [
    "batch_size=16",
    "num_workers=0",
    "persistent_workers=False",
    "dataset.data_root=../data",
    "dataset.train_size=128",
    "dataset.test_size=24",
    "dataset.val_size=32",
]
OPTIONS += [f"{s}_dataloader.{option}" for s in ("train", "val", "test") for option in LOADER]
# otherwise the relation loss would begin only after the end of these short runs
RELATION_OPTIONS = ["custom_hooks.0.min_samples_per_dim=0"]
IGNORED = re.compile(r"(^|[/_])(time|memory|\w*sha256)$")
TIMESTAMP = re.compile(r"\d{8}_\d{6}")
MOST_LINES = 8  # differences printed for each group


def add_arguments(parser):
    parser.add_argument("base", metavar="BASE", help="commit to compare with")
    parser.add_argument("head", metavar="HEAD", nargs="?", help="default: the working tree")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAME=REASON",
        help="an intended difference and its reason; NAME may contain * and ?; repeatable",
    )


def main(args):
    allowed = parse_allowed(args.allow)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="compare_commits-") as name:
        folder = Path(name)
        codes = checkout(args.base, folder / "base-code"), checkout(args.head, folder / "head-code")
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(run_side, codes, (folder / "base", folder / "head")))
    unexplained = report(*found, allowed)
    print(
        f"{args.base} and {args.head or 'the working tree'}: {unexplained} differences "
        f"without --allow ({time.monotonic() - begun:.0f} s)"
    )
    return 1 if unexplained else 0


def parse_allowed(texts):
    """Parse NAME=REASON to {pattern: reason}."""
    pairs = [text.partition("=") for text in texts]
    allowed = {name.strip(): reason.strip() for name, _, reason in pairs}
    if not all([*allowed, *allowed.values()]):
        raise ConfigError(f"--allow: expected NAME=REASON, found {' and '.join(texts)}")
    return allowed


def checkout(commit, folder):
    """The folder of a commit's files, written to ``folder``; the working tree itself for None."""
    if commit is None:
        return ROOT
    done = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if done.returncode:
        raise ConfigError(f"{commit}: cannot be checked out: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def run_side(code, folder):
    """Run all jobs with one commit's code in ``folder``; return the results (:func:`collect`)."""
    folder.mkdir()
    (folder / "code").symlink_to(code)  # the same relative paths for both commits
    environment = dict(os.environ, PYTHONPATH=str(code), OMP_NUM_THREADS="1")
    environment["CUDA_VISIBLE_DEVICES"] = ""
    for tool, *arguments in commands():
        command = [sys.executable, f"code/tools/{tool}.py", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            raise TrnPluginError(f"{code}: {tool} {' '.join(arguments[:3])} failed: {tail}")
    return collect(folder)


def commands():
    """Tool and arguments of each job, in order."""

    def with_options(job, *arguments):
        options = OPTIONS + (RELATION_OPTIONS if job.startswith("trn") else [])
        return [f"code/configs/toy/{job}_test-resnet_toy.py", *arguments, "--cfg-options", *options]

    last = f"{TRN}/epoch_{EPOCHS}.pth"
    for job in JOBS:
        yield "train", *with_options(job, "--work-dir", job)
    yield "train", *with_options(TRN, "--work-dir", "resumed", "--resume", f"{TRN}/epoch_1.pth")
    yield "test", *with_options(TRN, last, "--work-dir", "test", "--out", "metrics.json")
    yield "export_onnx", *with_options(TRN, last, "model.onnx")
    outputs = ("--out-dir", "predicted", "--csv", "predicted/found.csv")
    yield "predict", "model.onnx", "../data/toy_test", "--provider", "cpu", *outputs


def collect(folder):
    """The results of one commit's jobs, {group: {name: value}}."""
    found = {}
    for job in (*JOBS, "resumed"):
        found[f"{job}/log"] = read_log(folder / job)
        path = folder / job / f"epoch_{EPOCHS}.pth"
        for part, value in torch.load(path, map_location="cpu", weights_only=True).items():
            found[f"{job}/checkpoint/{part}"] = flat(value, folder)
    found["test"] = flat(json.loads((folder / "metrics.json").read_text()), folder)
    found["export"] = flat(read_metadata(folder / "model.onnx"), folder)
    predicted = folder / "predicted"
    lines = (predicted / "predictions.jsonl").read_text().splitlines()
    found["predict/jsonl"] = flat([json.loads(line) for line in lines], folder)
    with open(predicted / "found.csv", newline="") as file:
        found["predict/csv"] = flat(list(csv.DictReader(file)), folder)
    found["predict/drawn"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(predicted.glob("*.jpg"))
    }
    return found


def read_log(work):
    """The values of each scalar that a run logged, in order."""
    values = {}
    for path in sorted(work.glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            for name, value in json.loads(line).items():
                if name != "step" and not IGNORED.search(name):
                    values.setdefault(name, []).append(value)
    return {name: torch.tensor(each, dtype=torch.float64) for name, each in values.items()}


def read_metadata(path):
    """An exported file's inputs, outputs and metadata, and the number of nodes of each operator."""
    import onnx

    model = onnx.load(path)
    described = {"inputs": str(model.graph.input), "outputs": str(model.graph.output)}
    for node in model.graph.node:
        name = f"operators.{node.op_type}"
        described[name] = described.get(name, 0) + 1
    for entry in model.metadata_props:
        try:
            described[entry.key] = json.loads(entry.value)
        except ValueError:
            described[entry.key] = entry.value
    return described


def flat(value, folder, name=""):
    """Flatten nested dicts and lists to {name: tensor, number or text}, without ignored names."""
    if IGNORED.search(name):
        return {}
    if isinstance(value, str):
        value = TIMESTAMP.sub("TIME", value.replace(str(folder), "."))
    if not isinstance(value, (dict, list, tuple)):
        return {name: value}
    values = {}
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        values |= flat(part, folder, f"{name}/{key}" if name else str(key))
    return values


def difference(base, head):
    """How two values differ, as text; None if they are equal bit for bit."""
    if torch.is_tensor(base) and torch.is_tensor(head):
        if (base.shape, base.dtype) != (head.shape, head.dtype):
            kinds = [f"{list(value.shape)} {value.dtype}" for value in (base, head)]
            return f"{kinds[0]} before, now {kinds[1]}"
        bits = [value.contiguous().reshape(-1, 1).view(torch.uint8) for value in (base, head)]
        other = (bits[0] != bits[1]).any(1).nonzero()
        if not len(other):
            return None
        largest = (base.double() - head.double()).abs().nan_to_num().max()
        first = f"first at {int(other[0])}"
        return f"{len(other)} of {base.numel()} values, {first}, by at most {largest:.3g}"
    base, head = repr(base), repr(head)
    if base == head:
        return None
    first = next((i for i, (x, y) in enumerate(zip(base, head, strict=False)) if x != y), 0)
    begin = max(0, first - 20)
    return f"{base[begin:][:60]} before, now {head[begin:][:60]}"


def report(base, head, allowed):
    """Print the equal and the different values; return the number of unexplained differences."""
    unexplained, used = 0, set()
    for group in {**base, **head}:
        before, now = base.get(group, {}), head.get(group, {})
        names = {**before, **now}
        found = {n: difference(before.get(n, "missing"), now.get(n, "missing")) for n in names}
        lines = []
        for name, text in found.items():
            if text is not None:
                name = f"{group}/{name}"
                pattern = next((p for p in allowed if fnmatch.fnmatchcase(name, p)), None)
                used.add(pattern)
                reason = f" (allowed: {allowed[pattern]})" if pattern else ""
                lines.append((bool(pattern), f"  {name}: {text}{reason}"))
        unexplained += sum(not is_allowed for is_allowed, _ in lines)
        print(f"{group}: {len(names) - len(lines)} equal, {len(lines)} different")
        for _, line in sorted(lines)[:MOST_LINES]:
            print(line)
        if len(lines) > MOST_LINES:
            print(f"  and {len(lines) - MOST_LINES} more")
    for pattern in allowed.keys() - used:
        print(f"--allow {pattern}: no difference matches")
    return unexplained


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
