"""Draw the samples that training sees: pictures, boxes, labels, and which labels are missing.

Each sample is drawn twice: the original picture with its box, and the network's input with its
landmarks. The samples and their augmentation are those of the first training epoch.

Example:
    trn-plugin browse trn_plugin::toy/mtl_test-resnet_toy.py --show-number 8
    trn-plugin browse CONFIG --phase val --output-dir browse
"""

import itertools
from pathlib import Path

import numpy as np

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.config_checks import config_errors
from trn_plugin.errors import ConfigError
from trn_plugin.evaluation.case_sheets import Case, save_cases
from trn_plugin.geometry import read_image
from trn_plugin.registry import RUNNERS
from trn_plugin.tasks import Line

COLUMNS = 4
PER_SHEET = 24  # samples
PHASES = ("train", "val", "test")


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument("-p", "--phase", choices=PHASES, default="train", help="(%(default)s)")
    parser.add_argument(
        "-n", "--show-number", type=positive_int, default=16, help="number of samples (%(default)s)"
    )
    parser.add_argument(
        "-o", "--output-dir", help="folder of the pictures (work_dirs/<config name>/browse)"
    )


def main(args):
    config = load_config(args.config, args.cfg_options)
    folder = Path(args.output_dir or Path("work_dirs") / Path(args.config).stem / "browse")
    loader = build_loader(config, args.phase)
    count = min(args.show_number, len(loader.dataset))
    draws = itertools.islice(iter(loader.sampler), count)
    tasks = list((getattr(loader.dataset, "metainfo", None) or {}).get("tasks", {}))
    samples = [both_pictures(loader.dataset[draw], tasks) for draw in draws]
    for number, start in enumerate(range(0, count, PER_SHEET), start=1):
        chosen = samples[start : start + PER_SHEET]
        title = f"{args.phase}: samples {start + 1} to {start + len(chosen)}"
        path = folder / f"{args.phase}_{number}.png"
        save_cases(str(path), list(itertools.chain.from_iterable(chosen)), title, COLUMNS)
        print(f"written: {path}")


def build_loader(config, phase):
    """The config's data loader; the command uses its sampler and its data set."""
    loader = config.get(f"{phase}_dataloader")
    if not loader:
        raise ConfigError(f"config: has no {phase}_dataloader")
    runner = RUNNERS.get(config.get("runner_type", "SafeRunner"))
    with config_errors(f"{phase}_dataloader"):
        return runner.build_dataloader(loader, (config.get("randomness") or {}).get("seed"))


def both_pictures(packed, tasks=()):
    """Two pictures of a sample: the original with its box, and the network's input.

    ``tasks`` are the task names of all data sets; those that the sample's own lacks are listed.
    """
    sample = packed["data_samples"] if isinstance(packed, dict) else None
    if sample is None or "tasks" not in sample:
        raise ConfigError("browse: expected a pipeline that ends with PackMultiTaskInputs")
    owner = sample.get("dataset", "an unnamed data set")
    about = [
        Line(Path(sample.img_path).name),
        Line(f"of {owner}"),
        Line(f"box: {sample.get('box_source', 'unnamed')}"),
    ]
    if sample.get("unreadable"):
        about.append(Line("the picture cannot be read", False))
        original = np.zeros((8, 8, 3), np.uint8)
    else:
        original = read_image(sample.img_path)
    image = packed["inputs"].float().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    if image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    height, width = image.shape[:2]
    lines = [Line(f"input: {width} x {height} pixels")]
    lines += [Line(f"{name}: none in {owner}") for name in tasks if name not in sample.tasks]
    points = [np.zeros((0, 2))]
    for name, task in sample.tasks.items():
        if name not in sample.gt:
            lines.append(Line(f"{name}: no label", False))
            continue
        label = sample.gt[name].numpy()
        text = task.label_text(label)
        lines.append(Line(f"{name}: {text}", False if "missing" in text else None))
        points.append(task.points(label) * [width, height])
    truth = np.concatenate(points)
    network = Case(image, truth if len(truth) else None, lines=lines)
    return Case(original, frame=sample.get("box"), lines=about), network
