"""Pictures per second of `trn-plugin predict`, compared with decoding alone and the model alone.

"decoding, then model" is the rate of both in sequence, 1 / (1 / decoding + 1 / model). All run in
turn on the same cores, in batches of 16 as in `predict`; medians are printed. Examples with a
folder of pictures, a video, and many boxes in one picture:

    python tools/benchmarks/benchmark_predict.py model.onnx --pictures 10000 --no-draw --rounds 1
    python tools/benchmarks/benchmark_predict.py model.onnx --pictures 1000 --video
    python tools/benchmarks/benchmark_predict.py model.onnx --pictures 1 --size 2000 --boxes 3000
"""

import contextlib
import io
import tempfile
from pathlib import Path

import cv2
import numpy as np
from measuring import add_count, add_out, times_in_turn

from trn_plugin.cli import predict
from trn_plugin.cli.parsing import build_parser
from trn_plugin.cli.running import start
from trn_plugin.deploy import TaskPredictor
from trn_plugin.deploy.check import synthetic_picture
from trn_plugin.deploy.video import VideoFile, VideoOutput
from trn_plugin.errors import ConfigError
from trn_plugin.files import write_table
from trn_plugin.geometry import read_image

BATCH = 16
BOX = 150
"""Side of a box in pixels if a picture has several boxes."""


def add_arguments(parser):
    parser.add_argument("model", help="a file written by `trn-plugin export`")
    add_count(parser, "--pictures", 1000)
    add_count(parser, "--size", 150, "side of the pictures in pixels")
    parser.add_argument("--video", action="store_true", help="use the pictures as a video's frames")
    add_count(parser, "--boxes", 1, "boxes on each picture, of 150 pixels if more than one")
    parser.add_argument("--no-draw", action="store_true", help="skip the run that draws")
    add_count(parser, "--rounds", 5)
    add_out(parser)


def main(args):
    if args.boxes > 1 and (args.video or args.size < BOX):
        raise ConfigError(f"--boxes: expected pictures of at least {BOX} pixels, and no --video")
    with tempfile.TemporaryDirectory(prefix="benchmark_predict-") as folder:
        rows = measured(args, Path(folder))
    for row in rows:
        print(f"{row['what']:28} {row['per_second']:10.0f} per second")
    if args.out:
        write_table(args.out, rows)


def measured(args, folder):
    pictures = (synthetic_picture(args.size, args.size, seed) for seed in range(args.pictures))
    if args.video:
        given = [folder / "video.mp4"]
        output = VideoOutput(given[0], rate=25)
        for picture in pictures:
            output.write(picture)
        output.close()
    else:
        given = [folder / "pictures"]
        given[0].mkdir()
        paths = [given[0] / f"{index:05}.jpg" for index in range(args.pictures)]
        for path, picture in zip(paths, pictures, strict=True):
            cv2.imwrite(str(path), picture)
    side = args.size
    if args.boxes > 1:  # at random positions
        given, side = ["--boxes", folder / "boxes.csv"], BOX
        corners = np.random.default_rng(1).integers(0, args.size - BOX + 1, (args.boxes, 2))
        rows = [f"{p},{x},{y},{x + BOX},{y + BOX}" for p in paths for x, y in corners.tolist()]
        given[1].write_text("\n".join(["image,x0,y0,x1,y1", *rows]) + "\n")
    predictor = TaskPredictor(args.model)
    batch = np.stack([synthetic_picture(side, side, 0)] * BATCH)
    count = args.pictures * args.boxes
    parser = build_parser("")
    predict.add_arguments(parser)

    def decode():
        for _ in VideoFile(given[0]).frames() if args.video else map(read_image, map(str, paths)):
            pass

    def command(*options):
        words = [args.model, *given, "--out-dir", folder / "out", *options]
        parsed = parser.parse_args(list(map(str, words)))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            predict.main(parsed)

    runs = {
        "decoding alone": decode,
        "model alone": lambda: [predictor.run(batch) for _ in range(-(-count // BATCH))],
        "predict --no-draw": lambda: command("--no-draw"),
    }
    if not args.no_draw:
        runs["predict"] = command
    times = times_in_turn(runs, args.rounds)
    bound = times["decoding alone"] + times["model alone"]
    rows = [{"what": name, "per_second": count / seconds} for name, seconds in times.items()]
    rows.append({"what": "decoding, then model", "per_second": count / bound})
    share = bound / times["predict --no-draw"]
    print(f"predict --no-draw: {100 * share:.0f} % of decoding, then model")
    setting = {"pictures": args.pictures, "video": args.video}
    setting |= {"boxes": args.boxes, "size": args.size}
    return [{**setting, **row} for row in rows]


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
