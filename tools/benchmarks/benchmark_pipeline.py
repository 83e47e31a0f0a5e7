"""Pictures a second of one core: a config's training pipeline beside torchvision doing the same.

torchvision reads with PIL, as its data sets do, and applies the transforms.v2 that correspond to
the config's steps; its boxes are given to it and landmarks are left out. All sides take the same
pictures in turn, round after round, in this process; their CPU times' medians are compared, so that
other work on the machine does not count. Decoding alone is the floor.

Example:
    python tools/benchmarks/benchmark_pipeline.py configs/mtfl/mtl-fast_resnet18_mtfl.py \\
        --pictures 500
"""

import itertools
import time

from measuring import times_in_turn

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.cli.running import start
from trn_plugin.engine.building import config_errors
from trn_plugin.errors import ConfigError
from trn_plugin.files import write_json

CACHE_GB = 4.0


def add_arguments(parser):
    add_config_arguments(parser)
    parser.add_argument(
        "--pictures", type=positive_int, default=500, help="of the data set (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=positive_int, default=5, help="over all of them (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=positive_int, help="also time a data loader with so many workers"
    )
    parser.add_argument("--out", help="write the numbers to this JSON file")


def main(args):
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    config = load_config(args.config, args.cfg_options)
    settings = config.train_dataloader.dataset
    dataset = build(settings, args.pictures)
    boxes = [dataset[index]["data_samples"].box for index in range(len(dataset))]
    sides = {
        "this config": epochs(dataset),
        "torchvision, on PIL pictures": torchvision_side(dataset, boxes, settings, tensors=False),
        "torchvision, on tensors": torchvision_side(dataset, boxes, settings, tensors=True),
        "decoding alone": lambda: decode_alone(dataset),
    }
    if kept := cached(settings, args.pictures):
        sides["this config, from the cache"] = kept
    times = times_in_turn(sides, args.rounds, time.process_time)
    rates = {name: len(dataset) / seconds for name, seconds in times.items()}
    report(args, dataset, rates)
    if args.workers:
        loader(config, len(dataset), args.workers)
    if args.out:
        write_json(args.out, rates)


def build(settings, count):
    from trn_plugin.registry import DATASETS

    with config_errors("train_dataloader.dataset"):
        whole = DATASETS.build(dict(settings, pipeline=[]))
        step = max(len(whole) // count, 1)
        chosen = list(range(0, len(whole), step))[:count]
        return DATASETS.build(dict(settings, indices=chosen))


def epochs(dataset):
    """A function that runs all samples, with new draws each time."""
    from trn_plugin.datasets import SampleDraw

    counter = itertools.count()

    def run():
        epoch = next(counter)
        for index in range(len(dataset)):
            dataset[SampleDraw(index, epoch, 0)]

    return run


def cached(settings, count):
    """The config's pipeline with all pictures in memory, where it reads with LoadCrop."""
    pipeline = [dict(step) for step in settings.pipeline]
    loads = [step for step in pipeline if step["type"] == "LoadCrop"]
    if not loads:
        return None
    loads[0]["cache_gb"] = CACHE_GB
    dataset = build(dict(settings, pipeline=pipeline), count)
    return epochs(dataset)


def decode_alone(dataset):
    from trn_plugin.geometry import read_image

    for index in range(len(dataset)):
        read_image(dataset.get_data_info(index)["img_path"])


def torchvision_side(dataset, boxes, settings, tensors):
    import torch
    from PIL import Image
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional

    paths = [dataset.get_data_info(index)["img_path"] for index in range(len(dataset))]
    size = list(dataset.input_size)
    steps = [step for entry in settings.pipeline for step in counterpart(entry, v2)]
    transform = v2.Compose(steps + ([] if tensors else [v2.ToImage()]))

    def run():
        for path, (x0, y0, x1, y1) in zip(paths, boxes, strict=True):
            with open(path, "rb") as file:
                image = Image.open(file).convert("RGB")
            if tensors:
                image = functional.to_image(image)
            image = functional.resized_crop(image, y0, x0, y1 - y0, x1 - x0, size, antialias=True)
            image = transform(image)
            if image.dtype != torch.uint8 or list(image.shape[1:]) != size:
                raise ConfigError(f"torchvision gave {image.dtype} {tuple(image.shape)}")

    return run


def counterpart(step, v2):
    """The transforms.v2 of one step of the config's pipeline; reading and cutting have none."""
    if step["type"] == "RandomFlip":
        return [v2.RandomHorizontalFlip(step.get("prob", 0.5))]
    if step["type"] == "LoadCrop":
        shift = step.get("shift", 0)
        return [
            v2.RandomAffine(
                step.get("rotate", 0),
                translate=(shift, shift),
                scale=step.get("scale"),
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        ]
    if step["type"] != "Albumentations":
        return []
    return [photometric(entry, v2) for entry in step["transforms"]]


def photometric(entry, v2):
    options = dict(entry)
    name, p = options.pop("type"), options.pop("p", 0.5)
    bilinear = v2.InterpolationMode.BILINEAR
    if name == "RandomBrightnessContrast":
        brightness, contrast = options["brightness_limit"], options["contrast_limit"]
        return v2.RandomApply([v2.ColorJitter(brightness=brightness, contrast=contrast)], p)
    if name == "ToGray":
        return v2.RandomGrayscale(p)
    if name == "GaussianBlur":
        sigma = options["sigma_limit"]
        return v2.RandomApply([v2.GaussianBlur(2 * round(3 * sigma[1]) + 1, sigma)], p)
    if name == "Rotate":
        return v2.RandomApply([v2.RandomRotation(options["limit"], bilinear)], p)
    if name == "Affine":
        affine = v2.RandomAffine(
            options["rotate"],
            translate=(options["translate_percent"][1],) * 2,
            scale=options["scale"],
            interpolation=bilinear,
        )
        return v2.RandomApply([affine], p)
    raise ConfigError(f"Albumentations: no counterpart of {name} in torchvision is known here")


def report(args, dataset, rates):
    mine = rates["this config"]
    height, width = dataset.input_size
    print(f"{len(dataset)} pictures at {width} x {height}, median of {args.rounds} rounds")
    for name, rate in rates.items():
        ratio = "" if name == "this config" else f"   this config: {mine / rate:.2f} times that"
        print(f"  {name:<30} {rate:8.0f} pictures/s{ratio}")


def loader(config, count, workers):
    """Wall-clock rate of a data loader with so many workers, in its second epoch."""
    from trn_plugin.engine.runner import SafeRunner

    settings = config.train_dataloader
    settings.update(num_workers=workers, persistent_workers=workers > 0)
    settings.dataset.indices = count
    batches = SafeRunner.build_dataloader(settings, seed=0)
    if len(batches) == 0:
        raise ConfigError(
            f"--pictures {count}: no batch of {settings.batch_size} for the data loader"
        )
    for _ in range(2):
        start = time.perf_counter()
        pictures = sum(len(batch["inputs"]) for batch in batches)
        rate = pictures / (time.perf_counter() - start)
    print(f"  {f'data loader, {workers} workers':<30} {rate:8.0f} pictures/s of wall-clock time")


if __name__ == "__main__":
    start(__doc__, add_arguments, main)
