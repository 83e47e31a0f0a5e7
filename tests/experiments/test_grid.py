"""Cells of a grid, epochs of equal compute, and the Pareto front by its definition."""

import math

import numpy as np
import pytest

from trn_plugin.errors import ConfigError
from trn_plugin.experiments.grid import cells, equal_epochs
from trn_plugin.experiments.summary import measures_of, pareto_front


def test_a_cell_for_each_combination():
    rows = cells("c.py", ["a.size=1,2", "b.stages={x:1,y:2},all"])
    assert [row.options for row in rows] == [
        ("a.size=1", "b.stages={x:1,y:2}"),
        ("a.size=1", "b.stages=all"),
        ("a.size=2", "b.stages={x:1,y:2}"),
        ("a.size=2", "b.stages=all"),
    ]
    assert rows[1].name == "size 1, stages all"
    assert len({row.slug for row in rows}) == 4
    assert cells("c.py", ["a.size=0, 1 "]) == cells("c.py", ["a.size=0,1"])


def test_a_number_and_its_negative_have_their_own_folders():
    first, second = cells("c.py", ["a.stages=1,-1"])
    assert first.slug != second.slug
    with pytest.raises(ConfigError, match="two cells would have the folder"):
        cells("c.py", ["a.b=x+,x-"])


def test_keys_that_end_alike_are_named_in_full():
    (row,) = cells("c.py", ["heads.a.weight=1", "heads.b.weight=2", "c.size=3"])
    assert row.name == "heads.a.weight 1, heads.b.weight 2, size 3"


def test_equal_epochs_spend_what_the_cheapest_spends():
    costs = np.random.default_rng(0).uniform(1, 3, 20)
    epochs = equal_epochs(100, costs)
    spent = np.array(epochs) * costs
    assert max(epochs) == 100
    np.testing.assert_allclose(spent, 100 * costs.min(), rtol=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_pareto_front_by_its_definition(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 5, (12, 1 + seed % 3)).astype(float)  # with ties and equal points
    points[rng.random(points.shape) < 0.1] = math.nan

    def beats(p, q):
        return all(a <= b for a, b in zip(p, q, strict=True)) and any(p < q)

    found = pareto_front(points)
    for point, on_front in zip(points, found, strict=True):
        beaten = any(beats(other, point) for other in points)
        assert on_front == (not beaten and not np.isnan(point).any())
    assert pareto_front(points[::-1]) == found[::-1]


def test_the_first_metric_of_each_task_that_has_a_direction():
    keys = ["a/NME", "a/failure_rate", "b/N", "b/accuracy", "relation/tau_gt/a-b"]
    assert measures_of(keys) == ["a/NME", "b/accuracy"]
    assert measures_of(keys, ["a/failure_rate"]) == ["a/failure_rate"]
    for wrong in ("c/NME", "b/N"):
        with pytest.raises(ConfigError, match=f"found '{wrong}'"):
            measures_of(keys, [wrong])
