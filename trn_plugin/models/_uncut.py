"""Run a model on random pictures, to compare it with its parts after cutting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trn_plugin.errors import ConfigError, first_line

__all__ = [
    "TOLERANCE",
    "hidden_features",
    "output_for",
    "probing_pictures",
    "relative_difference",
    "seeded",
    "shape_of",
]

TOLERANCE = 1e-5
"""Largest accepted relative difference between a cut and an uncut model."""


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    return float((found - expected).detach().abs().max() / expected.abs().max().clamp(min=1e-6))


def probing_pictures(model: nn.Module, in_chans: int, size: tuple[int, int]) -> Tensor:
    """Random pictures: two if the model has batch norm, else one."""
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2 if norms else 1, in_chans, *size, generator=generator)


def seeded(run, x: Tensor):
    """``run(x)`` with a fixed random seed; the random state is restored afterwards."""
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(0)
    try:
        return run(x)
    finally:
        torch.random.set_rng_state(state)


def shape_of(value) -> str:
    """The shape of a tensor, or the type of another value, for messages."""
    return str(tuple(value.shape)) if torch.is_tensor(value) else type(value).__name__


def output_for(model: nn.Module, probe: Tensor, model_name: str):
    """Output for the probing pictures in eval mode; leaves the model in train mode."""
    model.eval()
    try:
        with torch.no_grad():
            output = seeded(model, probe)
    except Exception as error:  # a model may raise any error for a wrong shape
        raise ConfigError(
            f"model.backbone: {model_name} does not take pictures of {tuple(probe.shape[1:])}: "
            f"{first_line(error)}"
        ) from error
    model.train()
    return output


def hidden_features(model: nn.Module, probe: Tensor, model_name: str) -> Tensor:
    """The pooled features (N, d) of the probing pictures, in eval mode."""
    features = output_for(model, probe, model_name)
    if not torch.is_tensor(features) or features.ndim != 2:
        raise ConfigError(
            f"model.backbone: {model_name} gives {shape_of(features)}, where pooled features "
            "(N, d) are expected; set global_pool"
        )
    return features
