"""Run trainings in parallel processes, and resume those that were stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from trn_plugin.errors import ConfigError, TrnPluginError
from trn_plugin.experiments.plan import Run
from trn_plugin.experiments.results import Results
from trn_plugin.files import write_json

__all__ = ["Executor", "command_line", "tell", "visible_gpus"]


class Executor:
    """Executes the runs that have no result yet.

    A run's folder holds its checkpoint, its log, ``run.json`` (settings, seconds of earlier
    attempts) and ``metrics.json``. A stopped training resumes from its checkpoint. An interrupt
    terminates the running trainings.

    Args:
        root (Path): the working directory of the runs.
        results (Results): the results so far; each finished run adds its rows.
        jobs (int): number of parallel runs.
        gpus (Sequence[str]): values of ``CUDA_VISIBLE_DEVICES``, assigned to the jobs in turn.
        tell (Callable): called with a line whenever a run begins or ends.
        seconds (float, optional): time limit. A run that would probably exceed it is skipped,
            judging by the slowest finished run of its row (of any row, if its own has none).
        paths (Sequence[Path]): folders to prepend to the ``PYTHONPATH`` of the runs.
    """

    def __init__(
        self,
        root: Path,
        results: Results,
        jobs: int = 1,
        gpus: Sequence[str] = (),
        tell: Callable[[str], object] = print,
        seconds: float | None = None,
        paths: Sequence[Path] = (),
    ) -> None:
        self.root, self.results, self.tell, self.paths = root, results, tell, paths
        self._devices = [gpus[job % len(gpus)] if gpus else None for job in range(jobs)]
        self._until = None if seconds is None else time.monotonic() + seconds
        self._took: list[tuple[str, float]] = []

    def run(self, runs: Sequence[Run]) -> list[str]:
        """Execute the unfinished runs; if one fails, the others continue.

        Returns:
            list[str]: an error line for each failed run.

        Raises:
            ConfigError: a run's result or folder has other settings.
        """
        waiting = [run for run in runs if not self.results.has(run)]
        self.tell(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done")
        for run in waiting:
            _record(run)
        return asyncio.run(self._all(iter(waiting)))

    def command(self, arguments: Sequence[str], log: Path) -> None:
        """Run ``python ARGUMENTS`` in ``root``, with its output in ``log``.

        Raises:
            TrnPluginError: a non-zero exit status; the message holds the last line of the output.
        """
        asyncio.run(self._command(arguments, log, self._devices[0]))

    async def _all(self, runs: Iterator[Run]) -> list[str]:
        """Execute runs on all devices; each takes the next run as soon as it is free."""

        async def work(device: str | None) -> list[str]:
            return [failure for run in runs if (failure := await self._one(run, device))]

        failures = await asyncio.gather(*map(work, self._devices))
        return [failure for of_device in failures for failure in of_device]

    async def _one(self, run: Run, device: str | None) -> str | None:
        try:
            # another machine may have added the result in the meantime
            if not self.results.has(run) and self._in_time(run):
                await self._train(run, device)
        except (TrnPluginError, OSError) as error:
            self.tell(f"failed  {run}: {error}")
            return f"{run}: {error}"
        return None

    def _in_time(self, run: Run) -> bool:
        if self._until is None:
            return True
        own = [seconds for slug, seconds in self._took if slug == run.row.slug]
        expected = max(own or [seconds for _, seconds in self._took], default=0.0)
        left = self._until - time.monotonic()
        if left <= 0 or expected > left:
            self.tell(f"skip    {run}: {expected:.0f} s expected, {max(left, 0):.0f} s left")
            return False
        return True

    async def _train(self, run: Run, device: str | None) -> None:
        before = _record(run).get("seconds", 0.0)
        begun = any(run.folder.glob("*.pth"))
        started = time.monotonic()
        self.tell(f"{'resume' if begun else 'begin '}  {run}")
        try:
            if not _measured(run):  # a finished training is measured by resuming it
                await self._command(run.command(begun), run.folder / "train.log", device)
        finally:
            took = time.monotonic() - started
            record = {"settings": run.settings, "seconds": round(before + took, 1)}
            write_json(run.folder / "run.json", record)
        self._took.append((run.row.slug, took))
        self.results.add(run, _read(run.metrics), record["seconds"])
        self.tell(f"done    {run} ({took:.0f} s)")

    async def _command(self, arguments: Sequence[str], log: Path, device: str | None) -> None:
        environment = dict(os.environ)
        paths = [*map(str, self.paths), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = max(1, (cores or 1) // len(self._devices))
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *map(os.path.expandvars, arguments),
                cwd=self.root,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()
                raise
        if status:
            name = arguments[arguments[0] == "-m"]
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next(filter(None, map(str.strip, reversed(lines))), "no output")
            raise TrnPluginError(f"{name} ended with status {status}: {last} ({log})")


def _record(run: Run) -> dict:
    """The ``run.json`` of earlier attempts; empty if there is none.

    Raises:
        ConfigError: the earlier attempts had other settings.
    """
    path = run.folder / "run.json"
    record = _read(path) if path.is_file() else {}
    if record and record["settings"] != run.settings:
        raise ConfigError(
            f"{run.folder}: expected a run of the settings {run.settings!r}, "
            f"found {record['settings']!r}; remove the folder or give another --out-dir"
        )
    return record


def _measured(run: Run) -> bool:
    """Whether a run's folder holds what its scale measures."""
    return run.metrics.is_file() and _read(run.metrics)["metrics"].keys() >= {*run.scale.splits}


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def visible_gpus() -> list[str]:
    """One value of CUDA_VISIBLE_DEVICES for each GPU; empty without GPUs."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    return [str(i) for i in range(torch.cuda.device_count())]


def command_line(arguments: Iterable[str]) -> str:
    """A command quoted for a shell, except for its environment variables."""
    return " ".join(part if "$" in part else shlex.quote(part) for part in map(str, arguments))


def tell(line: str) -> None:
    """Print a line on stderr and flush it."""
    print(line, file=sys.stderr, flush=True)
