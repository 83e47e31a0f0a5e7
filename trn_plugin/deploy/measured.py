"""An exported file measured beside PyTorch, and pictures to compare the two on."""

from __future__ import annotations

import math

from mmengine.config import Config

from trn_plugin.cli.running import one_line
from trn_plugin.deploy.evaluate import crop_loader, measure, some_crops
from trn_plugin.deploy.export import update_metadata
from trn_plugin.errors import ConfigError, DataError

__all__ = ["data_to_compare", "measure_into", "pictures_to_calibrate"]

SPLITS = ("test", "val")


def data_to_compare(config: Config, split: str, count: int):
    """The loader of the set to measure on; pictures to compare outputs on.

    Args:
        config: of the run.
        split: 'test', 'val', or 'none' to measure nothing.
        count: pictures wanted, of ``split``, or else of any set that is there.

    Returns:
        the loader or None, the crops, and the set they are of or None.

    Raises:
        ConfigError, DataError: the set of ``split`` cannot be read.
    """
    if split != "none":
        try:
            loader = crop_loader(config, split)
            return loader, some_crops(loader, count), split
        except (ConfigError, DataError) as error:
            raise type(error)(
                f"{one_line(error)}; to measure the file needs these pictures: choose with "
                "--evaluate test or val, or leave it unmeasured with --evaluate none"
            ) from error
    reason = None
    for split in SPLITS if count else ():
        try:
            return None, some_crops(crop_loader(config, split), count), split
        except (ConfigError, DataError) as error:
            reason = one_line(error)
    if reason:
        print(f"no real pictures to compare on, drawn ones only: {reason}")
    return None, [], None


def pictures_to_calibrate(config: Config, crops: list, source: str | None, count: int):
    """Pictures whose activations give int8 its ranges, and the set they are of.

    Args:
        config: of the run.
        crops: those compared on, taken where the validation set is not there.
        source: the set they are of.
        count: pictures wanted.
    """
    if source != "val":
        try:
            return some_crops(crop_loader(config, "val"), count), "val"
        except (ConfigError, DataError):
            pass
    return crops, source


def measure_into(config: Config, split: str, loader, deployed, path: str) -> tuple[dict, dict, int]:
    """Measure a file and PyTorch on a set, print it, and write the result into the file.

    Returns:
        metrics of PyTorch, metrics of the file, and the number of pictures.
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
        metrics=_finite(after),
        metrics_of=f"this file, split {split}, {boxes.total()} pictures, boxes: {named}",
        pytorch_metrics=_finite(before),
    )
    return before, after, boxes.total()


def _finite(metrics: dict) -> dict:
    """What JSON can hold."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
