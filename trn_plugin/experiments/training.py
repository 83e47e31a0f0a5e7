"""Train one model and measure it on its validation and test sets, in one process.

A sweep starts this module. It takes the arguments of ``trn-plugin train``, --out and --splits.

Example:
    python -m trn_plugin.experiments.training CONFIG --out metrics.json
"""

import hashlib
import json
import subprocess
from pathlib import Path

import torch

import trn_plugin
from trn_plugin.cli import train
from trn_plugin.cli.running import start
from trn_plugin.cli.test import finite
from trn_plugin.datasets.transforms import FaceBox
from trn_plugin.deploy.scores import file_sha256
from trn_plugin.engine.data_config import plain_datasets_in
from trn_plugin.experiments.cost import device_name
from trn_plugin.files import write_json

__all__ = ["add_arguments", "box_of", "labels_digest", "main"]

SAMPLES_IN_DIGEST = 200


def add_arguments(parser):
    """Add the arguments of ``trn-plugin train``, --out and --splits."""
    train.add_arguments(parser)
    parser.add_argument("--out", required=True, help="write the metrics to this JSON file")
    parser.add_argument("--splits", nargs="+", choices=("val", "test"), default=["val", "test"])


def main(args):
    """Train, measure, and write the record to --out."""
    runner = train.train(
        args.config, args.cfg_options, args.work_dir, args.resume, args.amp, args.launcher
    )
    measure = {"val": runner.val, "test": runner.test}
    metrics = {split: finite(measure[split]()) for split in args.splits}
    loaders = {split: getattr(runner, f"{split}_dataloader") for split in args.splits}
    weights = runner.cfg.model.backbone.get("checkpoint_path")
    record = {
        "metrics": metrics,
        "box": {split: box_of(runner.cfg, split) for split in args.splits},
        "labels": {split: labels_digest(loader.dataset) for split, loader in loaders.items()},
        "weights": file_sha256(weights)[:8] if weights else None,
        "device": device_name(),
        "torch": torch.__version__,
        "commit": commit(),
    }
    write_json(args.out, record)


def box_of(config, split: str) -> str:
    """The box that a config crops pictures to, in words."""
    dataset = next(plain_datasets_in(config[f"{split}_dataloader"].dataset))
    for transform in dataset["pipeline"]:
        options = dict(transform)
        if options.pop("type", "").split(".")[-1] == "FaceBox":
            return FaceBox(**options).source
    return "as the data set cuts them"


def labels_digest(dataset) -> str:
    """Short SHA-256 of the labels of the first samples, with landmarks in pixels.

    It depends on the pixel-centre convention of landmarks, so that results of different
    conventions are not compared.
    """
    infos = (dataset.get_data_info(i) for i in range(min(SAMPLES_IN_DIGEST, len(dataset))))
    labels = [[info["gt"], info.get("landmarks")] for info in infos]
    return hashlib.sha256(json.dumps(plain(labels)).encode()).hexdigest()[:8]


def plain(value):
    """Nested arrays as lists of numbers, rounded to a hundredth."""
    if isinstance(value, dict):
        return {key: plain(inside) for key, inside in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(inside) for inside in value]
    return round(value, 2) if isinstance(value, float) else value


def commit() -> str:
    """The commit of the code; outside a clone, the package version."""
    root = Path(trn_plugin.__file__).parents[1]
    if not (root / ".git").exists():
        return trn_plugin.__version__
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip()


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
