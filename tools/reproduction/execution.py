"""Runs trainings and their tests as processes of their own, some at a time, and goes on later."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from reproduction.plan import Run, identity
from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.parsing import build_parser
from trn_plugin.errors import ConfigError, TrnPluginError
from trn_plugin.files import write_json

__all__ = ["Executor", "RunError", "checkpoint_of", "parsed_options", "result_of", "seconds_of"]

MEASURED = ("/NME", "/accuracy", "/mAP")


class RunError(TrnPluginError):
    """A training or a test ended with an error."""


class Executor:
    """Does the runs that have no result yet.

    A run's folder holds its checkpoints, logs, ``run.json`` (settings, commands, seconds) and
    metrics. It is finished when it has metrics and its settings are those that are asked for; a
    training that was stopped goes on from its newest checkpoint. What changes no result, such as
    the number of workers, may be another than it was.

    Args:
        root (Path): the repository's root, where the tools and configs are.
        jobs (int): runs at a time.
        gpus (Sequence[str]): devices for ``CUDA_VISIBLE_DEVICES``, given to the jobs in turn.
        tell (Callable): takes a line about what begins and ends.
        seconds (float, optional): begin no run that would take longer than what is left of them,
            by the longest of those done, of its own row if there is one.
    """

    def __init__(
        self,
        root: Path,
        jobs: int = 1,
        gpus: Sequence[str] = (),
        tell: Callable[[str], object] = print,
        seconds: float | None = None,
    ) -> None:
        self.root, self.jobs, self.tell = root, jobs, tell
        self.slots: SimpleQueue[str | None] = SimpleQueue()
        for job in range(jobs):
            self.slots.put(gpus[job % len(gpus)] if gpus else None)
        self._processes: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._until = None if seconds is None else time.monotonic() + seconds
        self._took: list[tuple[str, float]] = []

    def run(self, runs: Sequence[Run]) -> list[str]:
        """Do what is not done; a run that fails leaves the others alone.

        Returns:
            list[str]: what went wrong, a line for each failed run.

        Raises:
            ConfigError: a folder holds a run of other settings.
        """
        waiting = [run for run in runs if result_of(run) is None]
        self.tell(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done")
        done = [run for run in runs if run not in waiting]
        self._took = [(run.row.slug, seconds_of(run) or 0.0) for run in done]
        pool = ThreadPoolExecutor(self.jobs)
        try:
            futures = [pool.submit(self._one, run) for run in waiting]
            failed = [found for future in futures if (found := future.result())]
        except BaseException:
            self.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return failed

    def stop(self) -> None:
        """End the processes that run, and begin no other."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.terminate()

    def command(self, arguments: Sequence[str], log: Path) -> None:
        """Run ``python ARGUMENTS`` at the repository's root, with its output in ``log``.

        Raises:
            RunError: it ended with another status than 0; its last line.
        """
        gpu = self.slots.get()
        try:
            self._command(arguments, log, gpu)
        finally:
            self.slots.put(gpu)

    def _one(self, run: Run) -> str | None:
        gpu = self.slots.get()
        try:
            if not self._stopped and self._in_time(run):
                self._train_and_test(run, gpu)
        except (TrnPluginError, OSError) as error:
            self.tell(f"failed  {run}: {error}")
            return f"{run}: {error}"
        finally:
            self.slots.put(gpu)
        return None

    def _in_time(self, run: Run) -> bool:
        if self._until is None:
            return True
        own = [seconds for slug, seconds in self._took if slug == run.row.slug]
        expected = max(own or [seconds for _, seconds in self._took], default=0.0)
        left = self._until - time.monotonic()
        if left <= 0 or expected > left:
            self.tell(f"leave   {run}: {expected:.0f} s expected, {max(left, 0):.0f} s left")
            return False
        return True

    def _train_and_test(self, run: Run, gpu: str | None) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        record = {**run.settings, "config_sha256": config_digest(self.root, run)}
        seconds = _record(run).get("seconds", 0.0)
        checkpoint = checkpoint_of(self.root, run)
        begun = (run.folder / "last_checkpoint").is_file()
        self.tell(f"{'go on ' if begun else 'begin '}  {run}")
        started = time.perf_counter()
        try:
            _write(run, record, seconds)
            if not checkpoint.is_file():
                self._command(run.train_command(begun), run.folder / "train.log", gpu)
            keep_validation(run)
            self._command(run.test_command(checkpoint), run.folder / "test.log", gpu)
        finally:
            _write(run, record, seconds + time.perf_counter() - started)
        took = time.perf_counter() - started
        self._took.append((run.row.slug, took))
        self.tell(f"done    {run} ({took:.0f} s)")

    def _command(self, arguments: Sequence[str], log: Path, gpu: str | None) -> None:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(self.root), environment.get("PYTHONPATH")])
        )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // self.jobs)))
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            with self._lock:
                if self._stopped:
                    raise RunError("stopped")
                process = subprocess.Popen(
                    [sys.executable, *arguments],
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
            raise RunError(f"{arguments[0]} ended with status {status}: {_last_line(log)} ({log})")


def result_of(run: Run) -> dict | None:
    """A run's metrics; None where it is not finished.

    Raises:
        ConfigError: the folder holds a run of other settings, or files that cannot be read.
    """
    record = _record(run)
    for name, wanted in run.settings.items():
        found = record.get(name)
        if isinstance(wanted, list) and isinstance(found, list):
            wanted, found = identity(wanted), identity(found)
            wanted, found = sorted(wanted - found), sorted(found - wanted)
        if record and found != wanted:
            raise ConfigError(
                f"{run.folder}: holds a run with other {name}, {found} where {wanted} is asked "
                "for; remove the folder or give another --out-dir"
            )
    if not record or not run.metrics.is_file():
        return None
    return _read(run.metrics)


def seconds_of(run: Run) -> float | None:
    """How long a run took, all its attempts together."""
    return _record(run).get("seconds")


def checkpoint_of(root: Path, run: Run) -> Path:
    """The file that a run's last epoch writes."""
    return run.folder / f"epoch_{_config(root, run).train_cfg.max_epochs}.pth"


def config_digest(root: Path, run: Run) -> str:
    """SHA-256 of a run's whole config, in which a change of a base config shows."""
    return hashlib.sha256(_config(root, run).pretty_text.encode()).hexdigest()


def keep_validation(run: Run) -> None:
    """Write what the training itself measured at its end beside the metrics of the test half."""
    if run.scale.split == "val":
        return
    logs = sorted(run.folder.glob("*/vis_data/scalars.json"))
    rows = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    measured = [row for row in rows if any(key.endswith(MEASURED) for key in row)]
    if measured:
        found = {key: value for key, value in measured[-1].items() if "/" in key}
        write_json(run.folder / "metrics_val.json", found)


def parsed_options(options: Sequence[str]) -> dict:
    """KEY=VALUE texts as --cfg-options reads them."""
    parser = build_parser("")
    add_config_arguments(parser, optional=True)
    if not options:
        return {}
    return parser.parse_args(["--cfg-options", *options]).cfg_options


def _config(root: Path, run: Run):
    return load_config(str(root / run.row.config), parsed_options(run.train_options))


def _record(run: Run) -> dict:
    path = run.folder / "run.json"
    return _read(path) if path.is_file() else {}


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _write(run: Run, record: dict, seconds: float) -> None:
    write_json(run.folder / "run.json", {**record, "seconds": round(seconds, 3)})


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line for line in lines if line.strip()]
    return told[-1].strip() if told else "no output"
