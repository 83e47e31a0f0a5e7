"""Which runs are started, skipped and resumed, with a stub for the training module."""

import dataclasses
import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from trn_plugin.errors import ConfigError
from trn_plugin.experiments import execution
from trn_plugin.experiments.execution import Executor
from trn_plugin.experiments.plan import runs_of


def calls(root):
    path = root / "calls.txt"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def with_options(table, *options):
    rows = [dataclasses.replace(row, options=options) for row in table.rows]
    return dataclasses.replace(table, rows=rows)


def run(root, results, runs, **options):
    lines = []
    return Executor(root, results, tell=lines.append, **options).run(runs), lines


def test_finished_runs_are_not_repeated_on_any_machine(root, results, table):
    runs = runs_of(table, "small", [0, 3], root / "out")
    assert run(root, results, runs)[0] == []
    assert len(calls(root)) == 4
    errors = [[row["a/error"] for row in results.of(run)] for run in runs]
    assert errors == [["10.0", "10.0"]] * 2 + [["13.0", "13.0"]] * 2
    elsewhere = runs_of(table, "small", [0, 3, 4], root / "elsewhere", ["num_workers=4"])
    failed, lines = run(root, results, elsewhere)
    assert failed == []
    assert lines[0] == "6 runs, 4 of them done"
    assert len(calls(root)) == 6


def test_a_measured_run_whose_rows_were_lost_is_not_trained_again(root, results, table):
    runs = runs_of(table, "small", [0], root / "out")
    run(root, results, runs)
    results.path.unlink()
    assert run(root, results, runs)[0] == []
    assert all(results.has(r) for r in runs)
    assert len(calls(root)) == 2


def test_a_stopped_run_resumes_and_others_are_not_repeated(root, results, table):
    table = dataclasses.replace(
        table, rows=[table.rows[0], dataclasses.replace(table.rows[1], options=("fails=True",))]
    )
    runs = runs_of(table, "small", [0], root / "out")
    (failure,), _ = run(root, results, runs)
    assert "More (much), seed 0" in failure
    assert "error: the disk is full" in failure
    assert [results.has(r) for r in runs] == [True, False]
    assert run(root, results, runs)[0] == []
    resumed = ["--resume" in arguments for _, arguments, _ in calls(root)]
    assert resumed == [False, False, True]


def test_a_folder_of_other_settings_is_refused(root, results, table):
    run(root, results, runs_of(table, "small", [0], root / "out"))
    results.path.unlink()
    with pytest.raises(ConfigError, match=r"found 'c\.py randomness\.seed=0 s=1 t=1'"):
        run(root, results, runs_of(with_options(table, "x=2"), "small", [0], root / "out"))


def test_no_run_is_started_that_would_exceed_the_time_limit(root, results, table, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(execution, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def tell(line):
        lines.append(line)
        if line.startswith("begin"):
            clock[0] += 500 if "More" in line else 30

    lines = []
    runs = runs_of(table, "small", [0, 1, 2], root / "out")
    assert Executor(root, results, tell=tell, seconds=600).run(runs) == []
    assert [results.has(r) for r in runs] == [True, True, True, False, True, False]
    assert "skip    More (much), seed 1: 500 s expected, 40 s left" in lines


def test_jobs_run_at_the_same_time_on_their_devices(root, results, table):
    rows = [
        dataclasses.replace(row, options=(f"here={root / me}", f"wait_for={root / other}"))
        for row, me, other in zip(table.rows, "ab", "ba", strict=True)
    ]
    runs = runs_of(dataclasses.replace(table, rows=rows), "small", [0], root / "out")
    assert run(root, results, runs, jobs=2, gpus=["4", "7"])[0] == []
    assert {device for *_, device in calls(root)} == {"4", "7"}


def test_environment_variables_are_expanded_when_a_run_starts(root, results, table, monkeypatch):
    runs = runs_of(with_options(table, "w=$OWN_WEIGHTS"), "small", [0], root / "out")
    monkeypatch.setenv("OWN_WEIGHTS", "/here/w.pth")
    assert run(root, results, runs)[0] == []
    assert "w=/here/w.pth" in calls(root)[0][1]
    assert "w=$OWN_WEIGHTS" in results.of(runs[0])[0]["settings"]


@pytest.fixture
def interruptible():
    """SIGINT as in a main program; pytest's workers ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_running_processes_and_starts_no_other(root, results, table):
    options = f"here={root / 'here'}", f"wait_for={root / 'never'}"
    runs = runs_of(with_options(table, *options), "small", [0], root / "out")

    def interrupt():
        until = time.monotonic() + 20
        while not (root / "here").exists() and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(root, results, runs)
    assert len(calls(root)) == 1
    assert json.loads((runs[0].folder / "run.json").read_text())["seconds"] >= 0
    assert not list(root.rglob("*.pth")), "the process was ended"
    assert not results.has(runs[0])
