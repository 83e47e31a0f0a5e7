"""Run trainings in parallel processes, and resume those that were stopped."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from trn_plugin.errors import ConfigError, TrnPluginError
from trn_plugin.experiments.plan import Run
from trn_plugin.experiments.results import Results
from trn_plugin.files import write_json

__all__ = ["Executor", "RunError", "command_line", "tell", "visible_gpus"]


class RunError(TrnPluginError):
    """A training failed."""


class Executor:
    """Executes the runs that have no result yet.

    A run's folder holds its checkpoint, its log, ``run.json`` (settings, seconds of earlier
    attempts) and ``metrics.json``. A stopped training resumes from its checkpoint.

    Args:
        root (Path): the working directory of the runs.
        results (Results): the results so far; each finished run adds its rows.
        jobs (int): number of parallel runs.
        gpus (Sequence[str]): values of ``CUDA_VISIBLE_DEVICES``, assigned to the jobs in turn.
        tell (Callable): called with a line whenever a run begins or ends.
        seconds (float, optional): time limit. A run is not begun if the longest finished run of
            its row, or of any row if its own has none, took longer than the time left.
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
        self.root, self.results, self.jobs, self.tell = root, results, jobs, tell
        self.paths = paths
        self._devices: SimpleQueue[str | None] = SimpleQueue()
        for job in range(jobs):
            self._devices.put(gpus[job % len(gpus)] if gpus else None)
        self._processes: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False
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
        pool = ThreadPoolExecutor(self.jobs)
        try:
            futures = [pool.submit(self._one, run) for run in waiting]
            return [failure for future in futures if (failure := future.result())]
        except BaseException:
            self.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """Terminate the running processes, and begin no other run."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.terminate()

    def command(self, arguments: Sequence[str], log: Path) -> None:
        """Run ``python ARGUMENTS`` in ``root``, with its output in ``log``.

        Raises:
            RunError: a non-zero exit status; the message holds the last line of the output.
        """
        device = self._devices.get()
        try:
            self._command(arguments, log, device)
        finally:
            self._devices.put(device)

    def _one(self, run: Run) -> str | None:
        try:
            # another machine may have added the result in the meantime
            if not self._stopped and not self.results.has(run) and self._in_time(run):
                self._train(run)
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

    def _train(self, run: Run) -> None:
        before = _record(run).get("seconds", 0.0)
        begun = any(run.folder.glob("*.pth"))
        self.tell(f"{'resume' if begun else 'begin '}  {run}")
        started = time.perf_counter()
        try:
            if not run.metrics.is_file():
                self.command(run.command(begun), run.folder / "train.log")
        finally:
            took = time.perf_counter() - started
            record = {"settings": run.settings, "seconds": round(before + took, 1)}
            write_json(run.folder / "run.json", record)
        self._took.append((run.row.slug, took))
        self.results.add(run, read_json(run.metrics), record["seconds"])
        self.tell(f"done    {run} ({took:.0f} s)")

    def _command(self, arguments: Sequence[str], log: Path, device: str | None) -> None:
        environment = dict(os.environ)
        paths = [*map(str, self.paths), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // self.jobs)))
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            with self._lock:
                if self._stopped:
                    raise RunError("stopped")
                process = subprocess.Popen(
                    [sys.executable, *map(expanded, arguments)],
                    cwd=self.root,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                self._processes.add(process)
            try:
                status = process.wait()
            finally:
                self._processes.discard(process)
        if status:
            name = arguments[arguments[0] == "-m"]
            raise RunError(f"{name} ended with status {status}: {_last_line(log)} ({log})")


def expanded(argument: str) -> str:
    """Expand an environment variable in an argument such as KEY=$LITE0_WEIGHTS.

    Raises:
        ConfigError: the variable is not set.
    """
    text = os.path.expandvars(argument)
    if "=$" in text:
        raise ConfigError(f"{argument}: expected the environment variable to be set")
    return text


def read_json(path: Path) -> dict:
    """Read a JSON file.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _record(run: Run) -> dict:
    """The ``run.json`` of earlier attempts; empty if there is none.

    Raises:
        ConfigError: the earlier attempts had other settings.
    """
    path = run.folder / "run.json"
    record = read_json(path) if path.is_file() else {}
    if record and record["settings"] != run.settings:
        raise ConfigError(
            f"{run.folder}: expected a run of the settings {run.settings!r}, "
            f"found {record['settings']!r}; remove the folder or give another --out-dir"
        )
    return record


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    filled = [line for line in lines if line.strip()]
    return filled[-1].strip() if filled else "no output"


def visible_gpus() -> list[str]:
    """One value of CUDA_VISIBLE_DEVICES for each GPU; empty without GPUs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]


def command_line(arguments: Sequence[str]) -> str:
    """A command quoted for a shell, except for its environment variables."""
    quoted = [shlex.quote(str(part).replace("$", "")) for part in arguments]
    parts = [q if "$" not in str(p) else str(p) for p, q in zip(arguments, quoted, strict=True)]
    return " ".join(parts)


def tell(line: str) -> None:
    """Print a line on stderr and flush it."""
    print(line, file=sys.stderr, flush=True)
