"""Export a checkpoint as one ONNX file that takes pictures, and check it against PyTorch.

The file's input `images` is uint8 (N, H, W, 3) RGB of any size; resizing and normalisation are in
the graph. It has one output for each task: landmarks in pixels, probabilities of classes and
attributes. tools/predict.py runs it.

Example:
    python tools/export_onnx.py configs/toy/trn-output_test-resnet_toy.py \\
        work_dirs/toy/epoch_15.pth model.onnx --images face.jpg
"""

import argparse
import os

from trn_plugin.engine import cli
from trn_plugin.errors import ConfigError


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("out", metavar="OUT.onnx", help="file to write")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="export these only")
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set, from 18 on")
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="IMAGE", help="check on these pictures too"
    )
    return parser.parse_args()


def main():
    args = parse_args()
    from trn_plugin.deploy import export_onnx
    from trn_plugin.deploy.checkpoint import load_for_export
    from trn_plugin.geometry import read_image

    if not args.out.endswith(".onnx"):
        raise ConfigError(f"{args.out}: expected a file name that ends in .onnx")
    images = [read_image(path) for path in args.images]
    config = cli.load_config(args.config, args.cfg_options)
    model, input_size, metadata = load_for_export(config, args.checkpoint)
    print(f"exporting {metadata['backbone']} and comparing with PyTorch ...", flush=True)
    differences = export_onnx(
        model, args.out, input_size, metadata, args.opset, args.tasks, check_images=images
    )
    height, width = input_size
    size = os.path.getsize(args.out) / 1e6
    print(f"{args.out}: {size:.1f} MB, resizes its input to {width} x {height} pixels")
    for task, difference in differences.items():
        landmarks = metadata["tasks"][task]["kind"] == "landmarks"
        unit = "of the picture's side" if landmarks else "in probability"
        print(f"  {task}: differs from PyTorch by at most {difference:.1e} {unit}")


if __name__ == "__main__":
    cli.run(main)
