"""Pictures a second of `trn-plugin predict`, beside decoding alone and the model alone.

The bound is one after the other, 1 / (1 / decoding + 1 / model); all run in turn on the same cores,
in batches of 16 as `predict` does, and medians are printed.

Example:
    python tools/benchmarks/benchmark_predict.py model.onnx --pictures 1000 --out predict.csv
"""

import contextlib
import io
import itertools
import tempfile
from pathlib import Path

import cv2
import numpy as np
from measuring import add_count, add_out, times_in_turn

from trn_plugin.cli import predict
from trn_plugin.cli.parsing import build_parser
from trn_plugin.cli.running import start
from trn_plugin.deploy import TaskPredictor
from trn_plugin.files import write_table
from trn_plugin.geometry import read_image

BATCH = 16


def add_arguments(parser):
    parser.add_argument("model", help="a file written by `trn-plugin export`")
    add_count(parser, "--pictures", 1000)
    add_count(parser, "--size", 150, "side of the pictures in pixels")
    add_count(parser, "--boxes", 1, "on each picture, all of its size")
    add_count(parser, "--rounds", 5)
    add_out(parser)


def main(args):
    with tempfile.TemporaryDirectory(prefix="benchmark_predict-") as folder:
        paths = drawn_pictures(Path(folder), args.pictures, args.size)
        rows = measured(args, Path(folder), paths)
    for row in rows:
        print(f"{row['what']:28} {row['per_second']:10.0f} a second")
    if args.out:
        write_table(args.out, rows)


def drawn_pictures(folder, count, size):
    """JPEG files of smooth colours with some noise, as large as photographs of that size."""
    rng = np.random.default_rng(0)
    paths = [folder / f"pictures/{index:05}.jpg" for index in range(count)]
    paths[0].parent.mkdir()
    for path in paths:
        smooth = cv2.resize(rng.uniform(0, 255, (5, 5, 3)), (size, size))
        noisy = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(path), noisy)
    return paths


def measured(args, folder, paths):
    predictor = TaskPredictor(args.model)
    image = read_image(str(paths[0]))
    batch = np.stack([image] * BATCH)
    count = len(paths) * args.boxes
    given = [folder / "pictures"]
    if args.boxes > 1:
        table = folder / "boxes.csv"
        box = f"0,0,{args.size},{args.size}"
        rows = itertools.product(paths, range(args.boxes))
        lines = [f"{path},{box}" for path, _ in rows]
        table.write_text("\n".join(["image,x0,y0,x1,y1", *lines]) + "\n")
        given = ["--boxes", table]
    parser = build_parser("")
    predict.add_arguments(parser)

    def command(*options):
        words = [args.model, *given, "--out-dir", folder / "out", *options]
        parsed = parser.parse_args(list(map(str, words)))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            predict.main(parsed)

    runs = {
        "decoding alone": lambda: [read_image(str(path)) for path in paths],
        "model alone": lambda: [predictor.run(batch) for _ in range(-(-count // BATCH))],
        "predict --no-draw": lambda: command("--no-draw"),
        "predict": command,
    }
    times = times_in_turn(runs, args.rounds)
    bound = times["decoding alone"] + times["model alone"]
    rows = [{"what": name, "per_second": count / seconds} for name, seconds in times.items()]
    rows.append({"what": "decoding, then model", "per_second": count / bound})
    share = bound / times["predict --no-draw"]
    print(f"predict --no-draw: {100 * share:.0f} % of decoding, then model")
    setting = {"pictures": len(paths), "boxes": args.boxes, "size": args.size}
    return [{**setting, **row} for row in rows]


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
