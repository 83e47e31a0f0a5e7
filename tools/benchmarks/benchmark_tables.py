"""Time and memory to load a CSV file of many rows, in the main process and in workers.

Writes a file (two points, a class, an attribute and a value in each row) and 1,000 pictures,
builds the data set, and reads samples with data-loader workers. Set PYTHONPATH to measure other
code, such as a worktree of another commit.

Examples:
    python tools/benchmarks/benchmark_tables.py --rows 1000000
    python tools/benchmarks/benchmark_tables.py --split train
"""

import gc
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from trn_plugin import datasets
from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.running import start

PICTURES = 1000
LABELS = dict(
    points=dict(kind="landmarks", points=["left", "right"], flip_pairs=[("left", "right")]),
    coat=dict(kind="class", classes=["short", "long"]),
    striped=dict(kind="attributes"),
    weight=dict(kind="values"),
)
PIPELINE = [
    dict(type="trn_plugin.LoadImage"),
    dict(type="trn_plugin.FaceBox", mode="jitter"),
    dict(type="trn_plugin.CropResize", size=32),
    dict(type="trn_plugin.PackMultiTaskInputs"),
]
WORKERS, SAMPLES = 4, 20_000


def add_arguments(parser):
    parser.add_argument("--rows", type=positive_int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--split", choices=("train",), help="a random split; default: all rows")


def main(args):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        size = write(Path(folder), args.rows)
        print(f"{args.rows} rows, {size / 1e6:.0f} MB")
        for name, value in measure(folder, args.split).items():
            print(f"{name:32}{value:9.1f}")


def write(folder, rows):
    """Write labels.csv and pictures, which rows share; return the size of labels.csv in bytes."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for number in range(min(PICTURES, rows)):
        image = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"pictures/{number:06d}.jpg"), image)
    with open(folder / "labels.csv", "w", encoding="utf-8") as file:
        file.write("image,left_x,left_y,right_x,right_y,coat,striped,weight\n")
        for row in range(rows):
            x0, y0, x1, y1 = (f"{value:.2f}" for value in rng.uniform(4, 44, 4))
            coat = ("short", "long")[rng.integers(2)]
            file.write(
                f"pictures/{row % PICTURES:06d}.jpg,{x0},{y0},{x1},{y1},{coat},"
                f"{rng.integers(2)},{rng.normal():.4f}\n"
            )
    return (folder / "labels.csv").stat().st_size


def measure(root, split):
    gc.collect()
    before = memory()["Rss"]
    clock, begin = time.perf_counter(), time.process_time()
    dataset = datasets.TabularMultiTask(root, "labels.csv", LABELS, pipeline=PIPELINE, split=split)
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - begin
    peak, own = memory("status")["VmHWM"], memory()["Rss"]
    loader = DataLoader(
        dataset,
        batch_size=100,
        num_workers=WORKERS,
        persistent_workers=True,
        sampler=torch.randperm(len(dataset))[:SAMPLES].tolist(),
        collate_fn=datasets.multi_task_collate,
        multiprocessing_context="fork",
    )
    batches = iter(loader)
    for _ in range(len(loader)):
        next(batches)
    workers = [memory(pid=each.pid) for each in torch.multiprocessing.active_children()]
    return {
        "seconds": seconds,
        "of CPU": cpu_seconds,
        "MB": own - before,
        "peak": peak - before,
        "a worker": max(part["Private_Dirty"] + part["Private_Clean"] for part in workers),
        "together (PSS)": sum(part["Pss"] for part in [memory(), *workers]),
    }


def memory(file="smaps_rollup", pid="self"):
    """The entries in kB of a file in /proc/PID, in megabytes."""
    lines = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").splitlines()
    cells = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) / 1024 for name, value, _ in cells}


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
