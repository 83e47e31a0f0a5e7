"""Largest difference between PyTorch and other runtimes, for one exported model.

Exports the model in fp32 with each --resize, and runs it in every installed runtime on synthetic
pictures of the input's size, of 128 x 128 and of 300 x 200 pixels. Runtimes are onnxruntime,
OpenVINO, torch.export, and onnxruntime-web (in Node.js, from a folder filled by `npm ci`).
Differences are fractions of the picture's side for landmarks and absolute for probabilities.

Example:
    python tools/benchmarks/compare_runtimes.py configs/toy/trn-output_test-resnet_toy.py \\
        --checkpoint work_dirs/toy/epoch_15.pth --node-modules page/node_modules
"""

import functools
import importlib.util
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from benchmark_deploy import differences, model_of
from measuring import add_out

from trn_plugin.cli.config import add_config_arguments
from trn_plugin.cli.running import start
from trn_plugin.deploy import DeployModel, TaskPredictor, export_onnx
from trn_plugin.deploy.check import synthetic_picture
from trn_plugin.deploy.model import RESIZES
from trn_plugin.files import write_table

SIZES = ((128, 128), (300, 200))
"""Width and height of the pictures, besides the input's own."""
JAVASCRIPT = """
import { readFile } from "node:fs/promises";
const [runtime, model, pixels, ...shape] = process.argv.slice(1);
const ort = await import(runtime);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(await readFile(model));
const images = new ort.Tensor("uint8", new Uint8Array(await readFile(pixels)), shape.map(Number));
const outputs = Object.entries(await session.run({ images }));
console.log(JSON.stringify(Object.fromEntries(outputs.map(([name, o]) => [name, [...o.data]]))));
"""


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("--checkpoint", help="default: random weights")
    parser.add_argument("--node-modules", metavar="DIR", help="folder with onnxruntime-web")
    add_out(parser)


def main(args):
    model, size, metadata = model_of(args)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for resize in RESIZES:
            path = Path(folder, f"{resize}.onnx")
            export_onnx(model, path, size, metadata, resize=resize)
            deployed = DeployModel(model, size, resize=resize).eval()
            sizes = [size[::-1], *(SIZES if resize != "none" else ())]
            for name, version, run in runtimes(deployed, path, args.node_modules):
                for sides in sizes:
                    row = dict(runtime=name, version=version, resize=resize)
                    row |= compare(deployed, run, sides, metadata)
                    print("  ".join(f"{value:<12}" for value in row.values()), flush=True)
                    rows.append(row)
    if args.out:
        write_table(args.out, rows)


def runtimes(deployed, path, node_modules):
    """Name, version and function (pictures) -> {output: array} of each installed runtime."""
    names = deployed.outputs
    session = TaskPredictor(str(path), ["CPUExecutionProvider"])
    yield "onnxruntime", onnxruntime.__version__, session.run
    in_pytorch = functools.partial(in_torch, program(deployed), names)
    yield "torch.export", torch.__version__.split("+")[0], in_pytorch
    if importlib.util.find_spec("openvino"):
        import openvino

        options = {"INFERENCE_PRECISION_HINT": "f32"}  # otherwise bf16 on CPUs that support it
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
        version = openvino.__version__.split("-")[0]
        yield "OpenVINO", version, lambda x: {name: compiled(x)[name] for name in names}
    else:
        print("OpenVINO: not installed")
    web = Path(node_modules or "", "onnxruntime-web")
    if node_modules and shutil.which("node"):
        version = json.loads((web / "package.json").read_text())["version"]
        yield "onnxruntime-web", version, functools.partial(in_node, web, path)
    else:
        print("onnxruntime-web: needs Node.js and --node-modules")


def program(deployed):
    """The model exported by torch.export, for any number and size of pictures."""
    height, width = deployed.input_size
    extra = 0 if deployed.resize == "none" else 13
    example = torch.zeros(2, height + extra, width + 2 * extra, 3, dtype=torch.uint8)
    letters = "N" if deployed.resize == "none" else "NHW"
    free = {axis: torch.export.Dim(letter) for axis, letter in enumerate(letters)}
    with torch.no_grad():
        return torch.export.export(deployed, (example,), dynamic_shapes=(free,)).module()


@torch.no_grad()
def in_torch(network, names, pictures):
    outputs = network(torch.from_numpy(pictures))
    return dict(zip(names, (output.numpy() for output in outputs), strict=True))


def in_node(web, path, pictures):
    """Run a file with onnxruntime-web's WebAssembly in Node.js."""
    pixels = path.with_suffix(".pixels")
    pixels.write_bytes(pictures.tobytes())
    runtime = (web / "dist/ort.wasm.min.mjs").resolve().as_uri()
    command = ["node", "--input-type=module", "--eval", JAVASCRIPT, runtime, path, pixels]
    command += map(str, pictures.shape)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: np.array(values) for name, values in json.loads(done.stdout).items()}


def compare(deployed, run, sides, metadata):
    """The largest differences for two pictures, by task."""
    width, height = sides
    pictures = np.stack([synthetic_picture(height, width, seed) for seed in (0, 1)])
    expected, found = in_torch(deployed, deployed.outputs, pictures), run(pictures)
    found = {name: values.reshape(expected[name].shape) for name, values in found.items()}
    largest = differences(found, expected, pictures, metadata)
    row = {"width": width, "height": height}
    return row | {name: f"{value:.1e}" for name, value in largest.items()}


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
