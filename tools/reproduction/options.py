"""Options that several tables change."""

from __future__ import annotations

__all__ = ["PILLAI", "THREEFOLD", "UNCERTAINTY", "weights_times"]

PILLAI = "model.neck.statistic=pillai"
THREEFOLD = "model.heads.landmarks.loss_weight=30"
UNCERTAINTY = (
    "model.task_weighting.type=UncertaintyWeighting",
    "optim_wrapper.paramwise_cfg.custom_keys.task_weighting.decay_mult=0",
)


def weights_times(factor: float) -> tuple[str, ...]:
    """The paper's weights of output and hidden relations, times a factor."""
    levels = {"output": 0.01, "hidden": 0.001}
    return tuple(f"custom_hooks.0.weights.{k}={factor * w:g}" for k, w in levels.items())
