"""Pictures per second on one core: a config's training pipeline, compared with torchvision's.

torchvision reads with PIL, as its data sets do, and applies the transforms.v2 that correspond to
the config's steps. It gets the config's boxes and transforms no landmarks. All sides process the
same pictures in turn, in this process. Their median CPU times are compared, so that other load on
the machine does not count. Decoding alone is the upper limit.

Example:
    python tools/benchmarks/benchmark_pipeline.py configs/mtfl/mtl-fast_resnet18_mtfl.py \\
        --pictures 500
"""

import itertools
import time

import cv2
import torch
from measuring import add_count, times_in_turn
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.running import start
from trn_plugin.config_checks import config_errors
from trn_plugin.datasets import SampleDraw
from trn_plugin.engine.runner import SafeRunner
from trn_plugin.errors import ConfigError
from trn_plugin.files import write_json
from trn_plugin.geometry import read_image
from trn_plugin.registry import DATASETS

MINE, CACHE_GB = "this config", 4.0
BILINEAR = dict(interpolation=v2.InterpolationMode.BILINEAR)


def add_arguments(parser):
    add_config_arguments(parser)
    add_count(parser, "--pictures", 500, "pictures to read")
    add_count(parser, "--rounds", 5, "rounds over all pictures")
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="also time a data loader with N workers"
    )
    parser.add_argument("--out", metavar="FILE.json", help="write the numbers to this file")


def main(args):
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    config = load_config(args.config, args.cfg_options)
    settings = config.train_dataloader.dataset
    dataset = build(settings, args.pictures)
    places = range(len(dataset))
    paths = [dataset.get_data_info(index)["img_path"] for index in places]
    boxes = [dataset[index]["data_samples"].box for index in places]
    inputs = list(zip(paths, boxes, strict=True)), list(dataset.input_size), settings.pipeline
    sides = {
        MINE: epochs(dataset),
        "torchvision, on PIL pictures": torchvision_side(*inputs, tensors=False),
        "torchvision, on tensors": torchvision_side(*inputs, tensors=True),
        "decoding alone": lambda: sum(read_image(path).size for path in paths),
    }
    pipeline = [dict(step) for step in settings.pipeline]
    for step in pipeline:
        if step["type"] == "LoadCrop":
            step["cache_gb"] = CACHE_GB
            cached = build(dict(settings, pipeline=pipeline), args.pictures)
            sides[f"{MINE}, from the cache"] = epochs(cached)
    times = times_in_turn(sides, args.rounds, time.process_time)
    rates = {name: len(dataset) / seconds for name, seconds in times.items()}
    height, width = dataset.input_size
    print(f"{len(dataset)} pictures at {width} x {height}, median of {args.rounds} rounds")
    for name, rate in rates.items():
        ratio = "" if name == MINE else f"   {MINE}: {rates[MINE] / rate:.2f} times that"
        print(f"  {name:<30} {rate:8.0f} pictures/s{ratio}")
    if args.workers:
        rate = loader_rate(config, len(dataset), args.workers)
        name = f"data loader, {args.workers} workers"
        print(f"  {name:<30} {rate:8.0f} pictures/s of wall-clock time")
    if args.out:
        write_json(args.out, rates)


def build(settings, count):
    with config_errors("train_dataloader.dataset"):
        whole = DATASETS.build(dict(settings, pipeline=[]))
        step = max(len(whole) // count, 1)
        chosen = list(range(0, len(whole), step))[:count]
        return DATASETS.build(dict(settings, indices=chosen))


def epochs(dataset):
    """A function that runs one epoch, with new augmentation each time."""
    counter = itertools.count()

    def run():
        epoch = next(counter)
        for index in range(len(dataset)):
            dataset[SampleDraw(index, epoch, 0)]

    return run


def torchvision_side(pictures, size, pipeline, tensors):
    """A function that reads and transforms all pictures with torchvision."""
    steps = list(counterparts(pipeline))
    transform = v2.Compose(steps if tensors else [*steps, v2.ToImage()])

    def run():
        for path, (x0, y0, x1, y1) in pictures:
            with open(path, "rb") as file:
                image = Image.open(file).convert("RGB")
            if tensors:
                image = functional.to_image(image)
            image = functional.resized_crop(image, y0, x0, y1 - y0, x1 - x0, size, antialias=True)
            transform(image)

    return run


def affine(rotate, shift, scale):
    return v2.RandomAffine(rotate, translate=(shift, shift), scale=scale, **BILINEAR)


def blur(sigma):
    return v2.GaussianBlur(2 * round(3 * sigma[1]) + 1, sigma)


COUNTERPARTS = {
    "RandomFlip": lambda step: v2.RandomHorizontalFlip(step.get("prob", 0.5)),
    "LoadCrop": lambda step: affine(step.get("rotate", 0), step.get("shift", 0), step.get("scale")),
    "RandomBrightnessContrast": lambda step: v2.ColorJitter(
        step["brightness_limit"], step["contrast_limit"]
    ),
    "ToGray": lambda step: v2.Grayscale(3),
    "GaussianBlur": lambda step: blur(step["sigma_limit"]),
    "Rotate": lambda step: v2.RandomRotation(step["limit"], **BILINEAR),
    "Affine": lambda step: affine(step["rotate"], step["translate_percent"][1], step["scale"]),
}
WITHOUT = ("LoadImage", "FaceBox", "CropResize", "PackMultiTaskInputs")  # read, crop, collect


def counterparts(pipeline):
    """The transforms.v2 that correspond to a pipeline's steps after reading and cropping."""
    for entry in pipeline:
        is_list = entry["type"] == "Albumentations"
        for step in entry["transforms"] if is_list else [entry]:
            if step["type"] in COUNTERPARTS:
                transform = COUNTERPARTS[step["type"]](step)
                yield v2.RandomApply([transform], step.get("p", 0.5)) if is_list else transform
            elif step["type"] not in WITHOUT:
                raise ConfigError(f"{step['type']} has no counterpart in COUNTERPARTS")


def loader_rate(config, count, workers):
    """Pictures per second of a data loader, in its second epoch."""
    settings = config.train_dataloader
    settings.update(num_workers=workers, persistent_workers=True)
    settings.dataset.indices = count
    batches = SafeRunner.build_dataloader(settings, seed=0)
    if len(batches) == 0:
        raise ConfigError(
            f"--pictures {count}: no batch of {settings.batch_size} for the data loader"
        )
    for _ in range(2):
        begun = time.perf_counter()
        pictures = sum(len(batch["inputs"]) for batch in batches)
        rate = pictures / (time.perf_counter() - begun)
    return rate


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
