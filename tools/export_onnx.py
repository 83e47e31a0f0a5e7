"""Export a checkpoint as one ONNX file that takes pictures, and check it against PyTorch.

    python tools/export_onnx.py CONFIG CHECKPOINT model.onnx
    python tools/export_onnx.py CONFIG CHECKPOINT model.onnx --tasks landmarks --images face.jpg

The file's input `images` is uint8 (N, H, W, 3) RGB of any size; resizing and normalisation are in
the graph. It has one output for each task: landmarks in pixels, probabilities of classes and
attributes. tools/predict.py runs it.
"""

from __future__ import annotations

import argparse
import os
import sys


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    from mmengine.config import DictAction

    description, more = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=description,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="the config trained with")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pth file from tools/train.py")
    parser.add_argument("out", metavar="OUT.onnx", help="the file to write")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="export these only, in order")
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set (torch's choice)")
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="PATH", help="check on these pictures too"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="K=V", help="change the config"
    )
    return parser.parse_args(arguments)


def export(args: argparse.Namespace) -> None:
    from trn_plugin.deploy.checkpoint import load_for_export
    from trn_plugin.deploy.export import export_onnx
    from trn_plugin.deploy.metadata import task_names
    from trn_plugin.geometry import read_image

    images = [read_image(path) for path in args.images]
    model, input_size, metadata = load_for_export(args.config, args.checkpoint, args.cfg_options)
    differences = export_onnx(
        model,
        args.out,
        input_size,
        metadata,
        opset=args.opset,
        tasks=args.tasks,
        check_images=images,
    )
    height, width = input_size
    size = os.path.getsize(args.out) / 1e6
    print(f"{args.out}: {size:.1f} MB, input resized to {width} x {height} pixels")
    for task, difference in differences.items():
        kind = metadata["tasks"][task]["kind"]
        unit = "of the picture's side" if kind == "landmarks" else "in probability"
        print(f"  {task} ({kind}): differs from PyTorch by at most {difference:.1e} {unit}")


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    from trn_plugin.errors import TrnPluginError

    try:
        export(args)
    except TrnPluginError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
