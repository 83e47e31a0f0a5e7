"""Evaluate an exported file and its PyTorch model, and choose pictures to compare both on."""

from __future__ import annotations

from mmengine.config import Config

from trn_plugin.cli.running import one_line
from trn_plugin.deploy.evaluate import crop_loader, measure, some_crops
from trn_plugin.deploy.export import update_metadata
from trn_plugin.deploy.scores import finite_metrics
from trn_plugin.errors import ConfigError, DataError

__all__ = ["data_to_compare", "measure_into", "pictures_to_calibrate"]

SPLITS = ("test", "val")


def data_to_compare(config: Config, split: str, count: int):
    """The loader to evaluate on, and pictures to compare outputs on.

    Args:
        config: config of the run.
        split: 'test', 'val', or 'none' to evaluate nothing.
        count: number of pictures, from ``split``, or for 'none' from any available split.

    Returns:
        The loader, the crops, and their split; None, [], None if there are none.

    Raises:
        ConfigError, DataError: the data of ``split`` cannot be read.
    """
    for chosen in (split,) if split != "none" else SPLITS if count else ():
        try:
            loader = crop_loader(config, chosen)
            return loader, some_crops(loader, count), chosen
        except (ConfigError, DataError) as error:
            reason = one_line(error)
            if split != "none":
                raise type(error)(
                    f"{reason}; the file is evaluated on these pictures: choose others with "
                    "--evaluate test or val, or none with --evaluate none"
                ) from error
    if count:
        print(f"no real pictures to compare on, synthetic ones only: {reason}")
    return None, [], None


def pictures_to_calibrate(config: Config, crops: list, source: str | None, count: int):
    """Pictures to calibrate int8 on, and their split.

    Args:
        config: config of the run.
        crops: fallback if there is no validation set.
        source: split of ``crops``.
        count: number of pictures.
    """
    try:
        return some_crops(crop_loader(config, "val"), count), "val"
    except (ConfigError, DataError):
        return crops, source


def measure_into(config: Config, split: str, loader, deployed, path: str) -> tuple[dict, dict, int]:
    """Evaluate a file and PyTorch, print the metrics and write them into the file.

    Returns:
        Metrics of PyTorch, metrics of the file, and the number of pictures.
    """
    (before, after), boxes = measure(config, split, loader, deployed, [path])
    named = "; ".join(f"{source} ({count})" for source, count in boxes.most_common())
    print(f"measured on {boxes.total()} pictures of the {split} set, boxes: {named}")
    width = max(map(len, before))
    print(f"  {'':{width}}  {'PyTorch':>9}  {'this file':>9}  {'change':>9}")
    for name, value in before.items():
        change = after[name] - value
        print(f"  {name:{width}}  {value:9.3f}  {after[name]:9.3f}  {change:+9.3f}")
    update_metadata(
        path,
        metrics=finite_metrics(after),
        metrics_of=f"this file, split {split}, {boxes.total()} pictures, boxes: {named}",
        pytorch_metrics=finite_metrics(before),
    )
    return before, after, boxes.total()
