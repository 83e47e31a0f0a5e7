"""Means and paired differences, the Markdown page and the plot."""

import re
from pathlib import Path

import numpy as np
import pytest
from reproduction.picture import save_comparison
from reproduction.report import difference, markdown, paired

from trn_plugin.experiments.plan import runs_of


def rows_of(table, values, split="val"):
    """Result rows with these errors by row name, one for each seed."""
    return [
        dict(part="", row=row.name, seed=str(seed), split=split, box="a box", device="a CPU")
        | {"a/error": str(value), "a/none": ""}
        for row, errors in zip(table.rows, values, strict=True)
        for seed, value in enumerate(errors)
    ]


def page(table, rows):
    return markdown(table, "small", rows, runs_of(table, "small", [0], Path("out")), "python tool")


def test_the_interval_contains_the_true_difference_in_95_percent():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        seeds = rng.normal(5, 1, 4)  # the same for both methods with one seed
        own, base = seeds + rng.normal(0.3, 0.1, 4), seeds + rng.normal(0, 0.1, 4)
        text = difference(paired(dict(enumerate(own)), dict(enumerate(base))), 6)
        _, low, high = map(float, re.findall(r"[-+][\d.]+", text))
        inside.append(low < 0.3 < high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_only_pairs_with_equal_seeds_count():
    assert paired({0: 5.0, 1: 6.0, 7: 100.0}, {1: 5.5, 0: 4.0, 3: -100.0}) == [1.0, 0.5]
    assert difference(paired({0: 1.0}, {1: 2.0}), 2) == "-"


def test_an_interval_without_0_is_bold():
    assert difference([-2.1, -1.9], 1) == "**-2.0 [-3.3, -0.7]**"
    assert difference([-1.0, 1.0], 1) == "+0.0 [-12.7, +12.7]"
    assert difference([-1.0], 2) == "-1.00"


def test_markdown_has_a_table_and_differences_of_each_set(table):
    rows = rows_of(table, [[5.0, 5.2], [5.1, 5.4]]) + rows_of(table, [[7.0], [7.5]], "test")
    validation, test = page(table, rows).split("Test half (a box)")
    assert "| Plain | 2 | 5.10 ± 0.14 | - |" in validation
    assert "| More (much) - Plain | 2 | +0.15 [-0.49, +0.79] | - |" in validation
    assert "| Plain | 1 | 7.00 | 9.50 | - |" in test, "the paper measured the test half"
    assert "| More (much) - Plain | 1 | +0.50 | - |" in test
    assert "#   default_hooks" in test
    assert "# More (much): c.py x=1" in test


def test_picture_is_drawn_with_missing_numbers(table, tmp_path):
    save_comparison(str(tmp_path / "t.png"), table, rows_of(table, [[5.0], [5.1, 4.0]]))
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
