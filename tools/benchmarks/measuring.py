"""What the benchmarks share: options, devices, and times of alternatives in turn."""

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
    """Add an option that is a positive number."""
    parser.add_argument(
        name, type=positive_int, default=default, metavar="N", help=f"{help} (%(default)s)".strip()
    )


def add_device_arguments(parser) -> None:
    """Add --device and --threads."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="of the CPU (default: one for each core)"
    )


def add_out(parser) -> None:
    """Add --out, a table."""
    parser.add_argument("--out", metavar="FILE.csv", help="write the numbers to this table too")


def use_device(args) -> None:
    """Set the threads, and refuse CUDA where there is none; ``args.threads`` is then a number.

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
    """Median seconds of a call of each: in every round some calls of one, then of the next.

    What else the machine does meets all of them. The first round does not count.

    Args:
        runs: by name.
        rounds: that count.
        clock: ``time.process_time`` for what other programs must not disturb.
        calls: of each a round.
        pause: seconds before each, for threads that wait for work to go to sleep.
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
    """Seconds that ``run`` takes until the device has finished, and what it returns."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    result = run()
    wait()
    return time.perf_counter() - begin, result
