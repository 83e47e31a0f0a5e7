"""Kill training runs with SIGKILL at random moments, resume them, and compare how they end.

Half of the kills come while a checkpoint is being written. A run that has come to its end is
compared, bit for bit, with one that was never killed: weights, running covariances, optimizer,
logged losses and tau, random generators, metrics of the last validation. Exits with 1 when they
differ.

    python tests/kill_and_resume.py --kills 20
    python tests/kill_and_resume.py --kills 20 --by iteration --workers 2 --persistent
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # forked processes must not inherit threads
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from trn_plugin.datasets.toy_faces import make_toy_faces
from trn_plugin.engine import cli, load_checkpoint_file
from trn_plugin.registry import METRICS, MODELS, TRANSFORMS

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "configs/toy/trn-hidden-output_test-resnet_toy.py"
SIZES = dict(train_size=52, test_size=8, val_size=16)
CONFIG = """
_base_ = {base!r}

input_size = 32
faces = dict(data_root={faces!r}, **{sizes})
loader = dict(batch_size=12, num_workers={workers}, persistent_workers={persistent})
train_dataloader = dict(dataset=faces, **loader)
val_dataloader = dict(dataset=faces, **loader)
test_dataloader = dict(dataset=faces, **loader)
model = dict(backbone=dict(drop_path_rate=0.2))
custom_hooks = [
    dict(
        type="TaskRelationLossHook",
        weights=dict(output=0.01, hidden=0.001),
        min_samples_per_dim=0,
    )
]
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=10)]
train_cfg = {train_cfg}
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(
        interval=1,
        by_epoch={by_epoch},
        max_keep_ckpts=1,
        save_best="landmarks/NME",
        rule="less",
    ),
)
"""


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="%(default)s")
    parser.add_argument("--by", choices=("epoch", "iteration"), default="epoch")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="length (%(default)s)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="of the data loaders")
    parser.add_argument("--persistent", action="store_true", help="keep the workers")
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills")
    return parser.parse_args()


def write_config(args, folder):
    """The toy run, small, with dropped paths."""
    if args.by == "epoch":
        train_cfg = dict(max_epochs=args.epochs, val_interval=2)
    else:
        loop = dict(type="IterBasedTrainLoop", max_iters=3 * args.epochs, val_interval=2)
        train_cfg = dict(_delete_=True, **loop)
    path = folder / "config.py"
    path.write_text(
        CONFIG.format(
            base=str(BASE),
            faces=str(folder / "faces"),
            sizes=SIZES,
            workers=args.workers,
            persistent=args.persistent and args.workers > 0,
            train_cfg=train_cfg,
            by_epoch=args.by == "epoch",
        )
    )
    make_toy_faces(str(folder / "faces"), train_size=SIZES["train_size"], test_size=8)
    return path


def start(config, work, log):
    """Run tools/train.py --resume in a process forked from this one; its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        spec = importlib.util.spec_from_file_location("train", ROOT / "tools/train.py")
        train = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(train)
        sys.argv = ["train.py", str(config), "--work-dir", str(work), "--resume"]
        cli.run(train.main)
        status = 0
    finally:
        os._exit(status)


def ended(pid):
    """The exit status of a process, None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def kill_at_some_moment(pid, work, longest, rng):
    """SIGKILL the run; 'writing', 'other', or None when it ended before."""
    in_writing = rng.random() < 0.5
    moment = time.monotonic() + rng.uniform(0, longest)
    writes = rng.randint(1, 3)
    known = set(work.glob(".*.part"))
    while (status := ended(pid)) is None:
        if in_writing:
            found = set(work.glob(".*.part")) - known
            known |= found
            writes -= len(found)
            now = writes <= 0
        else:
            now = time.monotonic() >= moment
        if now:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "writing" if in_writing and set(work.glob(".*.part")) & known else "other"
        time.sleep(0.0005 if in_writing else 0.01)
    if status != 0:
        sys.exit(f"a run failed with status {status}; see {work.parent / 'log.txt'}")
    return None


def outcome(work):
    """What a finished run left, as name -> tensor or number."""
    path, best = sorted(work.glob("*.pth"), key=lambda path: path.name.startswith("best_"))
    checkpoint = load_checkpoint_file(path)
    values = {"file": path.name, "best": best.name, "iterations": checkpoint["meta"]["iter"]}
    flatten(load_checkpoint_file(best)["state_dict"], "best", values)
    for part in ("state_dict", "optimizer", "param_schedulers", "ranks"):
        flatten(checkpoint[part], part, values)
    for name, buffer in checkpoint["message_hub"]["log_scalars"].items():
        if not name.endswith("time"):
            values[f"log.{name}"] = buffer["history"]
    logs = sorted(work.glob("*/vis_data/scalars.json"), key=lambda p: p.stat().st_mtime_ns)
    rows = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    metrics = [row for row in rows if "landmarks/NME" in row][-1]
    values |= {f"metrics.{k}": repr(v) for k, v in metrics.items() if not k.endswith("time")}
    return values


def flatten(value, name, values):
    if isinstance(value, dict):
        for key, inner in value.items():
            flatten(inner, f"{name}.{key}", values)
    elif isinstance(value, (list, tuple)):
        for key, inner in enumerate(value):
            flatten(inner, f"{name}.{key}", values)
    else:
        values[name] = value


def differences(found, expected):
    names = [name for name in {**expected, **found} if name not in found or name not in expected]
    for name in found.keys() & expected.keys():
        a, b = found[name], expected[name]
        if torch.is_tensor(a) and torch.is_tensor(b):
            same = a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        else:
            same = a == b
        if not same:
            names.append(name)
    return sorted(names)


def run_to_the_end(config, work, log):
    pid = start(config, work, log)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(f"a run failed; see {log}")


def main():
    args = parse_args()
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="kill_and_resume-"))
    config = write_config(args, folder)
    for registry in (METRICS, MODELS, TRANSFORMS):
        registry.import_from_location()  # once, not in every process
    log = folder / "log.txt"
    begun = time.monotonic()
    run_to_the_end(config, folder / "whole", log)
    longest = time.monotonic() - begun
    expected = outcome(folder / "whole")
    print(f"seed {seed}; a whole run: {longest:.1f} s, {len(expected)} values", flush=True)

    kills, runs = {"writing": 0, "other": 0}, 0
    while sum(kills.values()) < args.kills:
        work = folder / f"killed{runs}"
        work.mkdir()
        while sum(kills.values()) < args.kills:
            killed = kill_at_some_moment(start(config, work, log), work, longest, rng)
            if killed is None:
                break
            kills[killed] += 1
        run_to_the_end(config, work, log)  # at its end already: validates and ends
        runs += 1
        different = differences(outcome(work), expected)
        if different:
            print(f"run {runs} differs in {len(different)} values: {different[:5]}; see {folder}")
            sys.exit(1)
        shutil.rmtree(work)
    print(
        f"{sum(kills.values())} kills, {kills['writing']} of them while a checkpoint was written, "
        f"in {runs} runs: all ended as the one that was not killed"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
