"""Rebuild the model of a config and a checkpoint for export."""

from __future__ import annotations

import json
import math
from numbers import Number
from pathlib import Path

from mmengine.config import Config
from torch import nn

from trn_plugin.deploy.export import describe_model
from trn_plugin.engine.inference import load_model
from trn_plugin.errors import ConfigError

__all__ = ["load_for_export"]


def load_for_export(
    config: Config, checkpoint_path: str, metrics_path: str | None = None
) -> tuple[nn.Module, tuple[int, int], dict]:
    """Build the config's model and load the checkpoint into it.

    Args:
        config: as from ``engine.cli.load_config``, its default scope in force.
        checkpoint_path: a checkpoint of that config's model.
        metrics_path: what ``tools/test.py --out`` wrote of it, for the metadata; default what
            was measured during training and is in the checkpoint, if anything.

    Returns:
        tuple: the model in eval mode on the CPU, without its neck; the (height, width) of its
        input in pixels; its metadata, see :func:`trn_plugin.deploy.export.describe_model`.

    Raises:
        ConfigError: if the config's model cannot be built, or the metrics cannot be read.
        CheckpointError: if the checkpoint cannot be read or belongs to another model.
    """
    model, meta = load_model(config, checkpoint_path)
    metrics = _numbers(meta.get("metrics"))
    metrics_of = "validation during training" if metrics else None
    if metrics_path is not None:
        metrics, metrics_of = read_metrics(metrics_path)
    dataset_meta = meta.get("dataset_meta")
    tasks = dataset_meta.get("tasks") if isinstance(dataset_meta, dict) else None
    input_size = tuple(model.backbone.img_size)
    _check_input_size(config, input_size)
    return model, input_size, describe_model(model, input_size, tasks, metrics, metrics_of)


def read_metrics(path: str) -> tuple[dict[str, float], str]:
    """The numbers that ``tools/test.py --out`` wrote, and of what they are, in a few words.

    Raises:
        ConfigError: a file that cannot be read or is none of those.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: expected JSON of tools/test.py --out: {error}") from error
    metrics = _numbers(record)
    if not metrics:
        raise ConfigError(f"{path}: holds no metrics; expected what tools/test.py --out writes")
    checkpoint = Path(str(record.get("checkpoint", "unnamed"))).name
    return metrics, f"split {record.get('split', 'unnamed')}, checkpoint {checkpoint}"


def _numbers(metrics: object) -> dict[str, float]:
    known = metrics if isinstance(metrics, dict) else {}
    return {key: value for key, value in known.items() if _finite(value)}


def _finite(value: object) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool) and math.isfinite(value)


def _check_input_size(config: Config, input_size: tuple[int, int]) -> None:
    """The network must see in the exported model what it saw when it was measured."""
    for loader in ("test_dataloader", "val_dataloader"):
        dataset = (config.get(loader) or {}).get("dataset") or {}
        sizes = [
            transform["size"] for transform in dataset.get("pipeline", ()) if transform.get("size")
        ]
        for size in [*sizes, dataset.get("input_size")]:
            pair = (size, size) if isinstance(size, int) else size
            if pair is not None and tuple(pair) != input_size:
                raise ConfigError(
                    f"{loader}: its pictures are of {tuple(pair)} pixels, model.backbone.img_size "
                    f"is {input_size}; set input_size at the top of the config for both"
                )
