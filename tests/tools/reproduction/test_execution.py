"""What is run, what is not run again, and what goes on, with stubs of the tools."""

import dataclasses
import json
import threading
import time

import pytest
from reproduction.execution import Executor, result_of, seconds_of
from reproduction.plan import runs_of

from trn_plugin.errors import ConfigError


def calls(root, kind):
    path = root / "calls.txt"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line[0] == kind]


def with_options(table, *options):
    rows = [dataclasses.replace(row, options=options) for row in table.rows]
    return dataclasses.replace(table, rows=rows)


def run(root, runs, **options):
    lines = []
    return Executor(root, tell=lines.append, **options).run(runs), lines


def test_what_is_done_is_not_done_again(root, table):
    runs = runs_of(table, "small", [0, 3], root / "out")
    assert run(root, runs)[0] == []
    assert len(calls(root, "train")) == len(calls(root, "test")) == 4
    assert [result_of(r)["a/error"] for r in runs] == [10, 10, 13, 13]
    assert all(seconds_of(r) > 0 for r in runs)
    runs[1].metrics.unlink()
    failed, lines = run(root, runs)
    assert failed == []
    assert lines[0] == "4 runs, 3 of them done"
    # its training was done, so that only the test is
    assert (len(calls(root, "train")), len(calls(root, "test"))) == (4, 5)


def test_a_stopped_training_goes_on_and_leaves_the_others_alone(root, table):
    table = dataclasses.replace(
        table, rows=[table.rows[0], dataclasses.replace(table.rows[1], options=("fails=True",))]
    )
    runs = runs_of(table, "small", [0], root / "out")
    (failure,), _ = run(root, runs)
    assert "More (much), seed 0" in failure
    assert "error: the disk is full" in failure
    assert result_of(runs[0]) is not None
    assert result_of(runs[1]) is None
    assert run(root, runs)[0] == []
    resumed = ["--resume" in arguments for _, _, arguments, _ in calls(root, "train")]
    assert resumed == [False, False, True]


def test_results_of_other_settings_are_refused(root, table):
    runs = runs_of(table, "small", [0], root / "out")
    run(root, runs)
    others = runs_of(with_options(table, "x=2"), "small", [0], root / "out")
    with pytest.raises(ConfigError, match=r"other train_options, \['x=1'\] where \['x=2'\]"):
        run(root, others[1:])


def test_what_changes_no_result_may_be_another(root, table):
    extra = ["train_dataloader.num_workers=4", "default_hooks.checkpoint.interval=1"]
    runs = runs_of(table, "small", [0], root / "out", extra)
    run(root, runs)
    assert all(result_of(r) for r in runs_of(table, "small", [0], root / "out"))
    for other in (dict(extra=["y=1"]), dict(amp=True)):
        with pytest.raises(ConfigError, match="other train_options"):
            result_of(runs_of(table, "small", [0], root / "out", **other)[0])


def test_mixed_precision_and_one_checkpoint(root, table):
    assert "--amp" not in runs_of(table, "small", [0], root)[0].train_command()
    trained = runs_of(table, "small", [0], root, amp=True)[0].train_command()
    assert "--amp" in trained[: trained.index("--cfg-options")]
    assert "default_hooks.checkpoint.max_keep_ckpts=1" in trained


def test_no_run_is_begun_that_cannot_finish(root, table):
    runs = runs_of(table, "small", [0, 1, 2], root / "out")
    run(root, runs[:2])
    for finished in runs[:2]:
        record = json.loads((finished.folder / "run.json").read_text())
        record["seconds"] = 30 if finished is runs[0] else 5000
        (finished.folder / "run.json").write_text(json.dumps(record))
    failed, lines = run(root, runs, seconds=600)
    assert failed == []
    assert [result_of(r) is not None for r in runs] == [True, True, True, False, True, False]
    assert "leave   More (much), seed 1: 5000 s expected, 600 s left" in lines


def test_jobs_run_at_the_same_time_on_their_devices(root, table):
    rows = [
        dataclasses.replace(row, options=(f"here={root / me}", f"wait_for={root / other}"))
        for row, me, other in zip(table.rows, "ab", "ba", strict=True)
    ]
    runs = runs_of(dataclasses.replace(table, rows=rows), "small", [0], root / "out")
    assert run(root, runs, jobs=2, gpus=["4", "7"])[0] == []
    assert {device for *_, device in calls(root, "train")} == {"4", "7"}


def test_rows_are_chosen_by_name(root, table):
    assert [r.row.name for r in runs_of(table, "small", [0], root, only=["much"])] == [
        "More (much)"
    ]
    with pytest.raises(ConfigError, match=r"'less' is in no row's name; they are plain, more-much"):
        runs_of(table, "small", [0], root, only=["less"])


def test_stopping_ends_what_runs_and_begins_no_other(root, table):
    runs = runs_of(
        with_options(table, f"here={root / 'here'}", f"wait_for={root / 'never'}"),
        "small",
        [0],
        root / "out",
    )
    executor = Executor(root, tell=lambda line: None)
    failed = []
    thread = threading.Thread(target=lambda: failed.extend(executor.run(runs)))
    thread.start()
    until = time.monotonic() + 20
    while not (root / "here").exists() and time.monotonic() < until:
        time.sleep(0.02)
    executor.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert len(calls(root, "train")) == 1
    assert "Plain, seed 0" in failed[0]
    assert result_of(runs[0]) is None
