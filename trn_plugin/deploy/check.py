"""Compare an exported file with its PyTorch model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import cycle

import cv2
import numpy as np
import torch
from torch import nn

from trn_plugin.deploy.cutting import resized
from trn_plugin.deploy.runtime import TaskPredictor
from trn_plugin.errors import CheckpointError

__all__ = ["TOLERANCE", "check_export", "synthetic_picture"]

TOLERANCE = 1e-4
"""Relative to the picture's side for landmarks, to the labels' standard deviation for values, to
the largest feature for features; absolute for probabilities."""
CHECK_BATCHES = (1, 2, 7)


@torch.no_grad()
def check_export(
    path: str | os.PathLike,
    deployed: nn.Module,
    images: Sequence[np.ndarray] | None = None,
    tolerance: float | None = TOLERANCE,
    name: str | None = None,
) -> dict[str, float]:
    """Compare the file at ``path``, run by onnxruntime on the CPU, with ``deployed``.

    Synthetic pictures of the input's size, a larger and a smaller one are run in batches of 1, 2
    and 7; then ``images`` once, in batches of 1, 2 and 7 in turn, of the size of their first one.

    Args:
        path: the exported file.
        deployed: the exported ``DeployModel``, in eval mode.
        images: further (H, W, 3) uint8 RGB pictures.
        tolerance: largest difference allowed; None allows any finite one.
        name: name of the file in messages; default its path.

    Returns:
        dict[str, float]: largest difference of each output, in the units of :data:`TOLERANCE`.

    Raises:
        CheckpointError: a difference exceeds the tolerance or is NaN.
    """
    name = name or str(path)
    predictor = TaskPredictor(str(path), providers=["CPUExecutionProvider"])
    device = next(deployed.parameters()).device
    worst = dict.fromkeys(deployed.outputs, 0.0)
    allowed = np.finfo(float).max if tolerance is None else tolerance
    for batch in [*_synthetic_batches(*deployed.input_size), *_batches(images or [])]:
        if deployed.resize == "none" and batch.shape[1:3] != deployed.input_size:
            batch = resized(batch, deployed.input_size)
        expected = deployed(torch.from_numpy(batch).to(device))
        found = predictor.run(batch)
        for output, reference in zip(deployed.outputs, expected, strict=True):
            reference = reference.cpu().numpy()
            size, height, width = batch.shape[:3]
            if output in predictor.tasks:
                spread = np.asarray(torch.as_tensor(deployed.model.heads[output].spread).cpu())
                scale = predictor.tasks[output].difference_scale(width, height, spread)
            else:
                scale = max(float(np.abs(reference).max()), 1.0)
            largest = float((np.abs(found[output] - reference) / scale).max())
            if not largest <= allowed:  # NaN too
                raise CheckpointError(
                    f"{name}: output {output} differs from PyTorch by {largest:.2g} at batch "
                    f"{size} of {width} x {height} pixels; allowed is {allowed:.0e}"
                )
            worst[output] = max(worst[output], largest)
    return worst


def _synthetic_batches(height: int, width: int) -> Iterator[np.ndarray]:
    shapes = [
        (height, width),
        (height * 7 // 4 + 1, width * 5 // 4 + 2),
        (height * 2 // 3 + 1, width * 3 // 4 + 1),
    ]
    for seed, shape in enumerate(shapes):
        picture = synthetic_picture(*shape, seed)
        for size in CHECK_BATCHES:
            yield np.stack([np.roll(picture, 3 * shift, axis=1) for shift in range(size)])


def _batches(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    start = 0
    for size in cycle(CHECK_BATCHES):
        chunk = images[start : start + size]
        if not chunk:
            return
        shape = chunk[0].shape
        yield np.stack(
            [image if image.shape == shape else cv2.resize(image, shape[1::-1]) for image in chunk]
        )
        start += size


def synthetic_picture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth random colours with some noise, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (5, 5, 3))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (smooth + rng.normal(0, 8, smooth.shape)).round().clip(0, 255).astype(np.uint8)
