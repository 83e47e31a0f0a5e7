"""Speed of a config's model in PyTorch, compiled, and exported to onnxruntime in its precisions.

All do the same work, from uint8 pictures in main memory to the tasks' outputs there; resizing and
normalising the pictures is inside on every side. They run in turn, some calls of each a round, and
the medians of all rounds are printed: what else the machine does meets all of them. A row that
cannot run says why. `differs` is the largest difference from eager PyTorch, of the picture's side
for landmarks.

Examples:
    python tools/benchmarks/benchmark_deploy.py configs/mtfl/mtl_resnet18_mtfl.py \\
        --threads 1 --out speed.csv
    python tools/benchmarks/benchmark_deploy.py configs/toy/trn-output_test-resnet_toy.py \\
        --checkpoint work_dirs/toy/epoch_15.pth --batch-sizes 1 64 --picture-size 250
"""

import functools
import os
import tempfile

from measuring import add_device_arguments, times_in_turn, use_device

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.running import start
from trn_plugin.errors import CheckpointError, TrnPluginError, first_line
from trn_plugin.files import write_table

BACKENDS = ("eager", "compile", "fp32", "fp16", "int8")
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
    parser.add_argument(
        "--batch-sizes", type=positive_int, nargs="+", default=[1, 8, 32], metavar="N"
    )
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=["eager", "compile", "fp32", "int8"]
    )
    parser.add_argument(
        "--picture-size",
        type=positive_int,
        metavar="S",
        help="side in pixels (default: the network's)",
    )
    parser.add_argument("--rounds", type=positive_int, default=5, help="default %(default)s")
    parser.add_argument(
        "--calls", type=positive_int, default=5, help="of each a round (%(default)s)"
    )
    add_device_arguments(parser)
    parser.add_argument("--out", metavar="CSV", help="write the numbers to this table too")


def main(args):
    import onnxruntime
    import torch

    use_device(args)
    config = load_config(args.config, args.cfg_options)
    model, metadata = load(config, args.checkpoint)
    height, width = metadata["input_size"]
    shape = (args.picture_size or height, args.picture_size or width)
    setting = {
        "backbone": metadata["backbone"],
        "input": f"{width} x {height}",
        "picture": f"{shape[1]} x {shape[0]}",
        "device": args.device,
        "threads": args.threads,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    print(
        f"{setting['backbone']} at {setting['input']} from uint8 pictures of {setting['picture']}, "
        f"{args.device}, {args.threads} threads, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs, skipped = backends(model, metadata, args, folder)
        for size in args.batch_sizes:
            print(f"batch of {size}")
            print(f"  {'':18} {'latency (ms)':>13} {'pictures/s':>11} {'over eager':>11}  differs")
            rows += measure(runs, skipped, batch_of(size, shape), metadata, args)
    if args.out:
        write_table(args.out, [{**setting, **row} for row in rows])


def load(config, checkpoint):
    from trn_plugin.deploy.checkpoint import load_for_export
    from trn_plugin.deploy.describe import describe_model
    from trn_plugin.engine.inference import build_model

    if checkpoint:
        model, _, metadata = load_for_export(config, checkpoint)
        return model, metadata
    model = build_model(config)
    return model, describe_model(model, tuple(model.backbone.img_size))


def batch_of(size, shape):
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (size, *shape, 3), dtype=np.uint8)


def backends(model, metadata, args, folder):
    """What can run, (pictures) -> {output: array} by name, and why the others cannot."""
    import torch

    from trn_plugin.deploy import DeployModel

    deployed = DeployModel(model, metadata["input_size"]).eval()
    ready, skipped = {}, {}
    for name in ("fp32", "fp16", "int8"):  # before the model moves to another device
        if name in args.backends:
            try:
                ready[name] = exported(model, metadata, args, name, folder)
            except TrnPluginError as error:
                skipped[name] = first_line(error)
    deployed.to(args.device)

    def in_torch(network):
        def run(pictures):
            with torch.inference_mode():
                outputs = network(torch.from_numpy(pictures).to(args.device))
                return {
                    task: output.cpu().numpy()
                    for task, output in zip(deployed.tasks, outputs, strict=True)
                }

        return run

    torch_backends = {"eager": in_torch(deployed)}
    if "compile" in args.backends:
        torch_backends["compile"] = in_torch(torch.compile(deployed, dynamic=False))
    known = torch_backends | ready
    return {name: known[name] for name in BACKENDS if name in known}, skipped


def exported(model, metadata, args, precision, folder):
    from trn_plugin.deploy import TaskPredictor, export_onnx
    from trn_plugin.deploy.session import providers_of

    path = os.path.join(folder, f"{precision}.onnx")
    export_onnx(model, path, metadata["input_size"], metadata, precision=precision)
    predictor = TaskPredictor(path, providers_of(args.device), args.threads)
    used = predictor.session.get_providers()[0]
    if not used.lower().startswith(args.device):
        raise CheckpointError(f"onnxruntime runs it by {used}, not on {args.device}")
    return predictor.run


def measure(runs, skipped, pictures, metadata, args):
    skipped, outputs, usable = dict(skipped), {}, {}
    for name, run in runs.items():
        try:
            outputs[name] = run(pictures)  # compiles, too
            usable[name] = run
        except Exception as error:  # compilers' and runtimes' errors share no base class
            skipped[name] = f"{type(error).__name__}: {first_line(error)}"
    ready = {name: functools.partial(run, pictures) for name, run in usable.items()}
    times = times_in_turn(ready, args.rounds, calls=args.calls, pause=0.05)
    rows = []
    for name in (name for name in BACKENDS if name in args.backends):
        row = {"backend": name, "batch_size": len(pictures)}
        if name in skipped:
            row["skipped"] = skipped[name]
            print(f"  {TITLES[name]:18} skipped: {skipped[name]}", flush=True)
        else:
            seconds = times[name]
            row |= {
                "milliseconds": 1e3 * seconds,
                "pictures_per_second": len(pictures) / seconds,
                "over_eager": times["eager"] / seconds if "eager" in times else None,
                "differs": difference(outputs[name], outputs.get("eager"), pictures, metadata),
            }
            print(
                f"  {TITLES[name]:18} {row['milliseconds']:13.2f} "
                f"{row['pictures_per_second']:11.1f} {row['over_eager'] or float('nan'):10.2f}x  "
                f"{row['differs']:.0e}",
                flush=True,
            )
        rows.append(row)
    return rows


def difference(found, expected, pictures, metadata):
    import numpy as np

    from trn_plugin.tasks import read_task

    if expected is None:
        return float("nan")
    worst = 0.0
    for task, values in found.items():
        described = read_task(task, metadata["tasks"][task])
        scale = described.difference_scale(*pictures.shape[2:0:-1], 1)
        worst = max(worst, float((np.abs(values - expected[task]) / scale).max()))
    return worst


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
