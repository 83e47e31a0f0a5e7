"""Means, spreads and verdicts; the Markdown, the CSV, the picture."""

import csv
import dataclasses
import shlex

import numpy as np
import pytest
from reproduction.picture import save_comparison
from reproduction.plan import ONE_CHECKPOINT, runs_of
from reproduction.report import (
    Finished,
    Summary,
    _comparison,
    csv_rows,
    markdown,
    summaries,
)

from trn_plugin.files import write_table


def finished(table, values, leaks=False, extra=()):
    """Runs with these errors, by row, a seed each."""
    seeds = range(max(map(len, values)))
    runs = runs_of(table, "small", seeds, table_folder, extra)
    return [
        Finished(run, {"checkpoint": "c", "a/error": v[run.seed]}, "box (val)", leaks, 1.5)
        for row, v in zip(table.rows, values, strict=True)
        for run in runs
        if run.row.slug == row.slug and run.seed < len(v)
    ]


@pytest.fixture(autouse=True)
def folder(tmp_path):
    global table_folder
    table_folder = tmp_path


def verdict(table, values):
    found = summaries(table.rows, table.columns, finished(table, values))
    return found["more-much"]["a/error"].verdict(-1)


def test_means_and_spreads(table):
    values = np.random.default_rng(0).normal(5, 1, (2, 4))
    found = summaries(table.rows, table.columns, finished(table, values.tolist()))
    for slug, row in zip(("plain", "more-much"), values, strict=True):
        assert found[slug]["a/error"].mean == pytest.approx(row.mean())
        assert found[slug]["a/error"].deviation == pytest.approx(row.std(ddof=1))
    difference = found["more-much"]["a/error"].difference
    assert difference == pytest.approx(values[1].mean() - values[0].mean())


def test_verdict_asks_for_more_than_the_spread(table):
    base = [5.0, 5.1, 4.9]
    assert verdict(table, [base, [v - 1 for v in base]]) == "better"
    assert verdict(table, [base, [v + 1 for v in base]]) == "worse"
    assert verdict(table, [base, [v - 0.05 for v in base]]) == "same"
    assert verdict(table, [base, [1.0]]) == "one seed"
    # few are called different where nothing is
    draws = np.random.default_rng(0).normal(size=(300, 2, 3)).tolist()
    assert np.mean([verdict(table, draw) != "same" for draw in draws]) < 0.08


def test_markdown_says_box_seeds_commands_and_when_nothing_is_gained(table):
    text = markdown(table, "small", finished(table, [[5.0, 5.2], [5.1, 5.2]]), "python tool")
    assert "Box: box (val). Mean ± standard deviation over the seeds 0, 1." in text
    assert "| Plain | 2 | 5.10 ± 0.14 |  | 9.50 |" in text
    assert "- More (much): not told from Plain by these seeds in error (%)." in text
    lines = text.splitlines()
    (command,) = [line for line in lines if "x=1" in line and "train.py" in line]
    assert "randomness.seed=$seed" in shlex.split(command)
    assert f'common="{" ".join(ONE_CHECKPOINT)} s=1 t=1"' in lines


def test_a_p_shows_on_which_side_of_the_limit_it_is(table):
    told = [_comparison(Summary({}, -1.0, p), table.columns[0]) for p in (0.049, 0.051, 0.26)]
    assert told == ["**-1.00** (p 0.049)", "-1.00 (p 0.051)", "-1.00 (p 0.26)"]


def test_markdown_says_what_the_user_changed(table):
    assert "Changed" not in markdown(table, "small", finished(table, [[5.0], [5.1]]))
    text = markdown(table, "small", finished(table, [[5.0], [5.1]], extra=("lr=1",)))
    assert "Changed in every run: `lr=1`." in text


def test_the_paper_stands_beside_no_leaking_box(table):
    text = markdown(table, "small", finished(table, [[5.0], [5.1]], leaks=True))
    assert "| Plain (box of the true landmarks) |" in text
    assert "9.50" not in text


def test_csv_has_every_run_and_its_command(table, tmp_path):
    done = finished(table, [[5.0, 5.2], [5.1, 5.2]])
    write_table(tmp_path / "t.csv", csv_rows(table, "small", done))
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["a/error"]) for row in rows] == [5.0, 5.2, 5.1, 5.2]
    assert [row["seed"] for row in rows] == ["0", "1", "0", "1"]
    assert "x=1" in shlex.split(rows[2]["train_command"])
    assert rows[2]["box"] == "box (val)"


def test_picture_is_drawn_with_missing_numbers(table, tmp_path):
    table = dataclasses.replace(table, rows=[*table.rows, table.rows[0]])
    save_comparison(str(tmp_path / "t.png"), table, finished(table, [[5.0], [5.1, 4.0], []]))
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
