"""Wall-clock time of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["timed"]

Result = TypeVar("Result")


def timed(run: Callable[[], Result], device: str | torch.device) -> tuple[float, Result]:
    """Seconds that ``run`` takes until the device has finished, and what it returns."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - begin, result
