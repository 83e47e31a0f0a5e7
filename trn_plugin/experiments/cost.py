"""The cost of a model: parameters, multiplications, and latency for one picture."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch
from mmengine.config import Config
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from trn_plugin.engine.inference import build_model

__all__ = ["Cost", "device_name", "model_cost"]


@dataclass(frozen=True)
class Cost:
    """Cost of a model with all its tasks.

    Attributes:
        parameters (int): number of weights.
        multiplications (int): multiplications in convolutions and matrix products, for one picture.
        latency_ms (float): median time of a forward pass of one picture.
        device (str): device of the latency.
    """

    parameters: int
    multiplications: int
    latency_ms: float
    device: str


def model_cost(config: Config) -> Cost:
    """The cost of a config's model with random weights, in evaluation mode.

    Measured on the GPU if there is one, else on the CPU with PyTorch's number of threads.

    Raises:
        ConfigError: the model cannot be built.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(config).to(device)
    picture = torch.zeros(1, 3, *model.backbone.img_size, device=device)
    names = dict(model=model, picture=picture)
    timer = Timer("model(picture)", globals=names, num_threads=torch.get_num_threads())
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(picture)
        latency = timer.blocked_autorange(min_run_time=0.5).median
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        multiplications=counter.get_total_flops() // 2,
        latency_ms=1000 * latency,
        device=device_name(),
    )


def device_name() -> str:
    """The GPU's name; without a GPU, the CPU's architecture."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()})"
