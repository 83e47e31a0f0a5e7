"""The cost of a model: parameters, multiplications, and latency for one picture."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trn_plugin.engine.inference import build_model

__all__ = ["Cost", "latency", "model_cost"]


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


def model_cost(config: Config, repeats: int = 30) -> Cost:
    """The cost of a config's model with random weights, in evaluation mode.

    Measured on the GPU if there is one, else on the CPU with PyTorch's number of threads.

    Raises:
        ConfigError: the model cannot be built.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(config).to(device)
    picture = torch.zeros(1, 3, *model.backbone.img_size, device=device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(picture)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        multiplications=counter.get_total_flops() // 2,
        latency_ms=latency(model, picture, repeats),
        device=name,
    )


@torch.inference_mode()
def latency(model: nn.Module, inputs: torch.Tensor, repeats: int = 30) -> float:
    """Median time of a forward pass in milliseconds, after three warm-up passes.

    Args:
        model: a model in evaluation mode, on the device of ``inputs``.
        inputs: a batch.
        repeats: number of timed passes.
    """
    times = []
    for _ in range(repeats + 3):
        begun = time.perf_counter()
        model(inputs)
        if inputs.is_cuda:
            torch.cuda.synchronize(inputs.device)
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times[3:])
