"""Export a checkpoint as one ONNX file, and compare the file's outputs with PyTorch's.

The file's input `images` is (N, H, W, 3) RGB, 0..255, of any size; the graph resizes and normalises
it. There is one output for each task: landmarks in pixels, probabilities of classes and attributes.
`trn-plugin predict` runs the file, `trn-plugin test` measures it.

Examples:
    trn-plugin export trn_plugin::toy/trn-output_test-resnet_toy.py \\
        work_dirs/toy/epoch_15.pth model.onnx --images face.jpg
    trn-plugin export trn_plugin::toy/trn-output_test-resnet_toy.py \\
        work_dirs/toy/epoch_15.pth pose_int8.onnx --tasks pose --precision int8 --evaluate val
"""

import os
import shutil
from pathlib import Path

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.errors import ConfigError
from trn_plugin.files import atomic_write, write_table
from trn_plugin.geometry import read_image
from trn_plugin.tasks import read_tasks

COLUMNS = ("quantity", "set", "pictures", "pytorch", "this_file", "difference", "unit")


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("out", nargs="?", metavar="OUT.onnx", help="default: model.onnx in --web")
    parser.add_argument("--web", metavar="DIR", help="also write a web page that runs the model")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="export only these tasks")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="(%(default)s)"
    )
    parser.add_argument(
        "--evaluate",
        choices=("test", "val", "none"),
        help="measure file and PyTorch on this set (default: test for fp16 and int8, else none)",
    )
    parser.add_argument(
        "--input", choices=("uint8", "float32"), default="uint8", help="pixel type (%(default)s)"
    )
    parser.add_argument(
        "--resize",
        choices=("operator", "exact", "none"),
        default="operator",
        help="how the graph resizes pictures. operator: ONNX's antialiased Resize; exact: two "
        "matrix products, for any runtime; none: pictures have the network's size (%(default)s)",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX operator set, 18 or later")
    parser.add_argument(
        "--features",
        action="store_true",
        help="add the outputs from which `trn-plugin test` computes tau",
    )
    parser.add_argument(
        "--metrics", metavar="JSON", help="file of `test --out` to store (default: training log)"
    )
    parser.add_argument("--report", metavar="CSV", help="append differences and metrics to a table")
    parser.add_argument(
        "--pictures",
        type=positive_int,
        default=200,
        metavar="N",
        help="pictures of the config to compare on, and to calibrate int8 with (%(default)s)",
    )
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="IMAGE", help="also compare on these pictures"
    )


def main(args):
    from trn_plugin.deploy import DeployModel, export_onnx
    from trn_plugin.deploy.checkpoint import load_for_export
    from trn_plugin.deploy.export import check_opset
    from trn_plugin.deploy.measured import data_to_compare, measure_into, pictures_to_calibrate
    from trn_plugin.deploy.web_page import check_page, write_page

    check_opset(args.opset)
    if not (args.out or args.web):
        raise ConfigError("OUT.onnx: expected the file to write, or --web DIR; found neither")
    page = check_page(args.web) if args.web else None
    out = args.out or str(page)
    if not out.endswith(".onnx"):
        raise ConfigError(f"{out}: expected a file name that ends in .onnx")
    split = args.evaluate or ("none" if args.precision == "fp32" else "test")
    images = [read_image(path) for path in args.images]
    config = load_config(args.config, args.cfg_options)
    model, input_size, metadata = load_for_export(config, args.checkpoint, args.metrics)
    loader, crops, source = data_to_compare(config, split, args.pictures)
    calibration = None
    if args.precision == "int8":
        calibration, chosen = pictures_to_calibrate(config, crops, source, args.pictures)
        kind = f"of the {chosen} set" if calibration else "of --images"
        calibration = calibration or images
        if not calibration:
            raise ConfigError("--precision int8: found no pictures to calibrate on; give --images")
        print(f"int8: calibrated on {len(calibration)} pictures {kind}")
    print(f"exporting {metadata['backbone']} and comparing with PyTorch ...", flush=True)
    differences = export_onnx(
        model,
        out,
        input_size,
        metadata,
        precision=args.precision,
        opset=args.opset,
        tasks=args.tasks,
        check_images=[*images, *crops],
        float_input=args.input == "float32",
        features=args.features,
        resize=args.resize,
        calibration=calibration,
    )
    height, width = input_size
    megabytes = os.path.getsize(out) / 1e6
    resizes = "takes pictures of" if args.resize == "none" else "resizes its input to"
    print(f"{out}: {args.precision}, {megabytes:.1f} MB, {resizes} {width} x {height} pixels")
    compared = [f"{len(crops)} pictures of the {source} set"] if crops else []
    compared += [f"{len(images)} of --images"] if images else []
    print(f"compared on {', '.join([*compared, 'synthetic pictures'])}, batches of 1, 2 and 7")
    tasks = read_tasks(metadata["tasks"])
    rows = []
    for output, difference in differences.items():
        unit = tasks[output].difference_unit if output in tasks else "of the largest"
        print(f"  {output}: differs from PyTorch by at most {difference:.1e} {unit}")
        found = {"difference": difference, "unit": f"largest, {unit}"}
        rows.append({"quantity": output, "set": source, "pictures": len(crops), **found})
    if split != "none":
        deployed = DeployModel(model, input_size, args.tasks).eval()
        before, after, count = measure_into(config, split, loader, deployed, out)
        for name, value in before.items():
            values = {"pytorch": value, "this_file": after[name], "difference": after[name] - value}
            rows.append({"quantity": name, "set": split, "pictures": count, **values})
    elif metadata["metrics"]:
        print(f"the file holds the metrics of {metadata['metrics_of']}")
    else:
        print(
            "the file holds no metrics: neither the checkpoint nor a training log beside it has "
            "any; --evaluate measures them, --metrics copies them from a file"
        )
    if page is not None:
        if Path(out).resolve() != page.resolve():
            with atomic_write(page, "--web") as partial:
                shutil.copyfile(out, partial)
        write_page(args.web)
        print(f"{args.web}: in this folder run `npm ci`, then `python -m http.server`")
    if args.report:
        about = dict(file=os.path.basename(out), backbone=metadata["backbone"])
        about |= dict(input=f"{width} x {height}", precision=args.precision)
        about |= dict(megabytes=round(megabytes, 3), **dict.fromkeys(COLUMNS))
        write_table(args.report, [about | row for row in rows], append=True, option="--report")
