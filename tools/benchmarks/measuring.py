"""Shared code of the benchmarks: options, devices, and timing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from trn_plugin.cli.parsing import positive_int
from trn_plugin.errors import ConfigError

Result = TypeVar("Result")


def add_count(parser, name: str, default: int, help: str = "") -> None:
    """Add an option whose value is a positive number."""
    parser.add_argument(
        name, type=positive_int, default=default, metavar="N", help=f"{help} (%(default)s)".strip()
    )


def add_device_arguments(parser) -> None:
    """Add --device and --threads."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="CPU threads (default: one per core)"
    )


def add_out(parser) -> None:
    """Add --out, the CSV file of the numbers."""
    parser.add_argument("--out", metavar="FILE.csv", help="also write the numbers to this file")


def use_device(args) -> None:
    """Set PyTorch's threads and ``args.threads``, and check that CUDA is available if chosen.

    Raises:
        ConfigError: no CUDA.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: this machine has no CUDA")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.threads = torch.get_num_threads()


def times_in_turn(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    calls: int = 1,
    pause: float = 0.0,
) -> dict[str, float]:
    """Median seconds per call of each function, called in turn in every round.

    So other load on the machine affects all of them. The first round is a warm-up.

    Args:
        runs: functions by name.
        rounds: number of timed rounds.
        clock: ``time.process_time`` excludes the load of other programs.
        calls: calls of each function per round.
        pause: seconds before each function's calls, in which idle threads stop spinning.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            time.sleep(pause)
            for _ in range(calls):
                start = clock()
                run()
                times[name].append(clock() - start)
    return {name: statistics.median(values[calls:]) for name, values in times.items()}


def timed(run: Callable[[], Result], device: str | torch.device) -> tuple[float, Result]:
    """Seconds until ``run`` and the device have finished, and the result of ``run``."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - begin, result
