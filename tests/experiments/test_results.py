"""The file of finished runs."""

import dataclasses
import threading
from pathlib import Path

import pytest

from trn_plugin.errors import ConfigError
from trn_plugin.experiments.plan import runs_of
from trn_plugin.experiments.results import Results, numbers


def record(error=1.0, labels="l1", splits=("val", "test"), **metrics):
    return {
        "metrics": {s: {"a/error": error, "a/none": None, **metrics} for s in splits},
        "box": {s: f"box of {s}" for s in splits},
        "labels": dict.fromkeys(splits, labels),
        "device": "cpu",
    }


def test_there_is_one_row_for_each_measured_set(results, table):
    one, other = runs_of(table, "small", [0], Path("out"))
    results.add(one, record(1.5), 20.0)
    results.add(other, record(2.5, **{"b/c": 3.0}), 30.0)
    rows = results.of(other)
    assert [row["split"] for row in rows] == ["val", "test"]
    assert numbers(rows[0]) == {"a/error": 2.5, "b/c": 3.0}
    assert numbers(results.of(one)[1]) == {"a/error": 1.5}
    assert rows[0]["box"] == "box of val"


def test_a_run_is_finished_when_all_its_sets_are_measured(results, table):
    (run, _) = runs_of(table, "small", [0], Path("out"))
    results.add(run, record(1.5, splits=("val",)), 1.0)
    assert not results.has(run)
    results.add(run, record(2.5, splits=("test",)), 1.0)
    assert results.has(run)
    found = {row["split"]: numbers(row)["a/error"] for row in results.of(run)}
    assert found == {"val": 1.5, "test": 2.5}
    results.add(run, record(), 1.0)
    assert len(results.rows()) == 2


def test_other_settings_are_refused(results, table):
    (run, _) = runs_of(table, "small", [0], Path("out"))
    results.add(run, record(), 1.0)
    other = dataclasses.replace(run, extra=("y=1",))
    with pytest.raises(ConfigError, match="Plain, seed 0: expected the settings"):
        results.has(other)


def test_runs_with_different_labels_are_refused(results, table):
    one, other = runs_of(table, "small", [0], Path("out"))
    results.add(one, record(), 1.0)
    with pytest.raises(ConfigError, match=r"the same labels \(\w+\), found l1, l2"):
        results.add(other, record(labels="l2"), 1.0)
    assert not results.has(other)
    results.add(other, record(), 1.0)
    assert results.has(other)


def test_processes_that_share_a_file_lose_no_row(results, table):
    runs = runs_of(table, "small", range(10), Path("out"))
    add = [threading.Thread(target=results.add, args=(run, record(), 1.0)) for run in runs]
    for thread in add:
        thread.start()
    for thread in add:
        thread.join()
    assert all(results.has(run) for run in runs)


def test_another_table_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("row,seed\nMTL,0\n")
    with pytest.raises(ConfigError, match="expected the column 'settings'"):
        Results(tmp_path / "other.csv").rows()
