"""Speed of a config's model in PyTorch, compiled, and exported to onnxruntime in its precisions.

All backends do the same work, including resizing and normalising: from uint8 pictures to the
outputs, both in main memory. They run in turn, a few calls of each per round, so that other load on
the machine affects all of them; the medians of all rounds are printed. A backend that
cannot run is listed with the reason. `differs` is the largest difference from eager PyTorch, for
landmarks as a fraction of the picture's side.

Examples:
    python tools/benchmarks/benchmark_deploy.py configs/mtfl/mtl_resnet18_mtfl.py \\
        --threads 1 --out speed.csv
    python tools/benchmarks/benchmark_deploy.py configs/toy/trn-output_test-resnet_toy.py \\
        --checkpoint work_dirs/toy/epoch_15.pth --batch-sizes 1 64 --picture-size 250
"""

import functools
import os
import tempfile
import time

import numpy as np
import onnxruntime
import torch
from measuring import add_count, add_device_arguments, add_out, times_in_turn, use_device

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.running import start
from trn_plugin.deploy import DeployModel, TaskPredictor, export_onnx
from trn_plugin.deploy.checkpoint import load_for_export
from trn_plugin.deploy.describe import describe_model
from trn_plugin.deploy.session import providers_of
from trn_plugin.engine.inference import build_model
from trn_plugin.errors import CheckpointError, TrnPluginError, first_line
from trn_plugin.files import write_table
from trn_plugin.tasks import read_tasks

TITLES = {
    "eager": "PyTorch eager",
    "compile": "torch.compile",
    "fp32": "onnxruntime fp32",
    "fp16": "onnxruntime fp16",
    "int8": "onnxruntime int8",
}


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("--checkpoint", help="default: random weights, which are as fast")
    sizes = dict(type=positive_int, metavar="N")
    parser.add_argument("--batch-sizes", nargs="+", default=[1, 8, 32], **sizes)
    backends = ["eager", "compile", "fp32", "int8"]
    parser.add_argument("--backends", nargs="+", choices=tuple(TITLES), default=backends)
    parser.add_argument("--picture-size", help="side in pixels (default: the network's)", **sizes)
    add_count(parser, "--rounds", 5)
    add_count(parser, "--calls", 5, "calls of each backend per round")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="measure CPU time of all threads of the process, which excludes other programs",
    )
    add_device_arguments(parser)
    add_out(parser)


def main(args):
    use_device(args)
    model, (height, width), metadata = model_of(args)
    shape = (args.picture_size or height, args.picture_size or width)
    setting = {
        "backbone": metadata["backbone"],
        "input": f"{width} x {height}",
        "picture": f"{shape[1]} x {shape[0]}",
        "device": args.device,
        "threads": args.threads,
        "clock": "cpu" if args.cpu_time else "wall",
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    print(
        "{backbone} at {input} from uint8 pictures of {picture}, {device}, {threads} threads, "
        "torch {torch}, onnxruntime {onnxruntime}".format(**setting)
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs, skipped = backends(model, metadata, args, folder)
        for size in args.batch_sizes:
            print(f"batch of {size}")
            print(f"  {'':18} {'latency (ms)':>13} {'pictures/s':>11} {'over eager':>11}  differs")
            pictures = np.random.default_rng(0).integers(0, 256, (size, *shape, 3), np.uint8)
            rows += measure(runs, dict(skipped), pictures, metadata, args)
    if args.out:
        write_table(args.out, [{**setting, **row} for row in rows])


def model_of(args):
    """The model of the config and the checkpoint, the size of its input, and its metadata."""
    config = load_config(args.config, args.cfg_options)
    if args.checkpoint:
        return load_for_export(config, args.checkpoint)
    model = build_model(config)
    size = tuple(model.backbone.img_size)
    return model, size, describe_model(model, size)


def backends(model, metadata, args, folder):
    """The usable backends, {name: (pictures) -> {output: array}}; why the others fail, by name."""
    deployed = DeployModel(model, metadata["input_size"]).eval()
    runs, skipped = {}, {}
    for precision in ("fp32", "fp16", "int8"):  # before the model moves to another device
        if precision in args.backends:
            try:
                runs[precision] = exported(model, metadata, args, precision, folder)
            except TrnPluginError as error:
                skipped[precision] = first_line(error)
    deployed.to(args.device)

    def in_torch(network, pictures):
        with torch.inference_mode():
            outputs = network(torch.from_numpy(pictures).to(args.device))
            return dict(zip(deployed.tasks, (o.cpu().numpy() for o in outputs), strict=True))

    runs["eager"] = functools.partial(in_torch, deployed)
    if "compile" in args.backends:
        runs["compile"] = functools.partial(in_torch, torch.compile(deployed, dynamic=False))
    return {name: runs[name] for name in TITLES if name in runs}, skipped


def exported(model, metadata, args, precision, folder):
    path = os.path.join(folder, f"{precision}.onnx")
    size = metadata["input_size"]
    pictures = [*np.random.default_rng(1).integers(0, 256, (8, *size, 3), np.uint8)]
    export_onnx(model, path, size, metadata, precision=precision, calibration=pictures)
    predictor = TaskPredictor(path, providers_of(args.device), args.threads)
    used = predictor.session.get_providers()[0]
    if not used.lower().startswith(args.device):
        raise CheckpointError(f"onnxruntime runs it with {used}, not on {args.device}")
    return predictor.run


def measure(runs, skipped, pictures, metadata, args):
    outputs, usable = {}, {}
    for name, run in runs.items():
        try:
            outputs[name] = run(pictures)  # also compiles
            usable[name] = functools.partial(run, pictures)
        except Exception as error:  # errors of compilers and runtimes share no base class
            skipped[name] = f"{type(error).__name__}: {first_line(error)}"
    clock = time.process_time if args.cpu_time else time.perf_counter
    times = times_in_turn(usable, args.rounds, clock, args.calls, pause=0.05)
    rows = []
    for name in (name for name in TITLES if name in args.backends):
        row = {"backend": name, "batch_size": len(pictures)}
        text = f"skipped: {skipped.get(name)}"
        if name in skipped:
            row["skipped"] = skipped[name]
        else:
            rate, ratio = len(pictures) / times[name], times.get("eager", np.nan) / times[name]
            differs = differences(outputs[name], outputs["eager"], pictures, metadata)
            row |= {"milliseconds": 1e3 * times[name], "pictures_per_second": rate}
            row |= {"over_eager": ratio, "differs": max(differs.values())}
            text = f"{row['milliseconds']:13.2f} {rate:11.1f} {ratio:10.2f}x  {row['differs']:.0e}"
        print(f"  {TITLES[name]:18} {text}", flush=True)
        rows.append(row)
    return rows


def differences(found, expected, pictures, metadata):
    """The largest difference of each task, for landmarks as a fraction of the picture's side."""
    height, width = pictures.shape[1:3]
    return {
        name: float((np.abs(found[name] - expected[name]) / scale).max())
        for name, task in read_tasks(metadata["tasks"]).items()
        for scale in [task.difference_scale(width, height, 1)]
    }


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
