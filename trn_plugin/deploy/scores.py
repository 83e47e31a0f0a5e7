"""Metrics of a checkpoint: stored in it, logged by its run, or written by trn-plugin test."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from numbers import Number
from pathlib import Path

from trn_plugin.errors import ConfigError

__all__ = ["file_sha256", "finite_metrics", "scores_of"]

RUN_STARTED = re.compile(r"\d{8}_\d{6}$")
"""Timestamp at the end of a run's name; also the name of its log folder."""
NO_METRICS = ("data_time", "time", "memory", "at_iter", "step")


def scores_of(
    checkpoint_path: str | os.PathLike, meta: Mapping, metrics_path: str | None = None
) -> tuple[dict[str, float], str | None]:
    """The finite metrics of a checkpoint and their origin in a few words.

    Args:
        checkpoint_path: the checkpoint file.
        meta: its meta.
        metrics_path: output of ``trn-plugin test --out``; default the validation during training,
            from the checkpoint or else from its run's log.

    Returns:
        tuple: metrics by name and their origin, ({}, None) if there are none.

    Raises:
        ConfigError: ``metrics_path`` cannot be read or belongs to another checkpoint.
    """
    if metrics_path is not None:
        return _read_metrics(metrics_path, checkpoint_path)
    during = f"validation during training, epoch {meta.get('epoch')}, iteration {meta.get('iter')}"
    stored = finite_metrics(meta.get("metrics"))
    if stored:
        return stored, f"{during}, in the checkpoint"
    logged, log = _logged_metrics(checkpoint_path, meta)
    return logged, f"{during}, {log}" if logged else None


def _logged_metrics(checkpoint_path: str | os.PathLike, meta: Mapping) -> tuple[dict, str]:
    """Metrics that the run of a checkpoint logged at its iteration, if any, and the log's path.

    A checkpoint is written before its validation. The log is MMEngine's ``LocalVisBackend``,
    ``<timestamp of the run>/vis_data/scalars.json`` beside the checkpoint.
    """
    started = RUN_STARTED.search(str(meta.get("experiment_name")))
    log = Path(started[0] if started else "", "vis_data", "scalars.json")
    path = Path(checkpoint_path).parent / log
    found: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            values = json.loads(line)
        except ValueError:  # the run was killed while it wrote this line
            continue
        if "at_iter" in values and values["at_iter"] == meta.get("iter"):
            found = {k: v for k, v in finite_metrics(values).items() if k not in NO_METRICS}
    return found, log.as_posix()


def _read_metrics(path: str, checkpoint_path: str | os.PathLike) -> tuple[dict[str, float], str]:
    """Metrics of a checkpoint from ``trn-plugin test --out``, and their split."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: expected JSON from trn-plugin test --out: {error}") from error
    metrics = finite_metrics(record)
    if not metrics:
        raise ConfigError(f"{path}: expected metrics from trn-plugin test --out, found none")
    measured = Path(str(record.get("checkpoint", "unnamed"))).name
    if record.get("checkpoint_sha256") != file_sha256(checkpoint_path):
        raise ConfigError(
            f"{path}: expected the metrics of {checkpoint_path}, found those of {measured} with "
            "another checkpoint_sha256; measure this checkpoint with trn-plugin test --out"
        )
    return metrics, f"split {record.get('split', 'unnamed')}, checkpoint {measured}"


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def finite_metrics(values: object) -> dict[str, float]:
    """The finite numbers of a dict, which JSON can hold."""
    known = values if isinstance(values, dict) else {}
    return {
        key: float(value)
        for key, value in known.items()
        if isinstance(value, Number) and not isinstance(value, bool) and math.isfinite(value)
    }
