import itertools

import numpy as np
import pytest
import torch

from trn_plugin.evaluation.pairwise import (
    clustered_order,
    grouped,
    pair_similarities,
    similarity_matrix,
)
from trn_plugin.relation import chance_similarity, task_similarity

WIDTHS = dict(points=6, side=2, a=1, b=1, c=1)
PAIRS = list(itertools.combinations(WIDTHS, 2))


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(60, 1))
    return {name: factor + 2 * rng.normal(size=(60, d)) for name, d in WIDTHS.items()}


def expected(features, a, b, rows=slice(None)):
    return float(task_similarity(*(torch.from_numpy(features[x][rows]) for x in (a, b))))


def test_every_pair_is_measured_over_the_samples_that_have_both(features):
    features["side"][::3] = np.nan
    features["points"][::5, 2] = np.nan
    features["b"][::5] = np.inf
    missing = {name: set() for name in WIDTHS} | dict(
        side=set(range(0, 60, 3)), points=set(range(0, 60, 5)), b=set(range(0, 60, 5))
    )
    for (a, b), found in zip(PAIRS, pair_similarities(features, PAIRS), strict=True):
        both = [i for i in range(60) if i not in missing[a] | missing[b]]
        assert found.n == len(both)
        assert found.tau == pytest.approx(expected(features, a, b, both), abs=1e-12)
        assert found.chance == chance_similarity(len(both), WIDTHS[a], WIDTHS[b])
        assert (found.d1, found.d2, found.note) == (WIDTHS[a], WIDTHS[b], "")


def test_samples_can_be_selected(features):
    present = {name: np.arange(60) < 40 for name in WIDTHS}
    features["a"][50] = np.nan
    features["b"][30] = np.nan
    ab, ac = pair_similarities(features, [("a", "b"), ("a", "c")], present)
    assert np.isnan(ab.tau)
    assert ab.note == "undefined: features are not finite"
    assert ac.tau == pytest.approx(expected(features, "a", "c", slice(40)), abs=1e-12)


def test_notes_name_what_limits_a_pair(features):
    few = {name: values[:9] for name, values in features.items()}
    few["c"] = np.full((9, 1), 0.1)
    few["same"] = few["a"]
    none = few | dict(side=np.full((9, 2), np.nan))
    (wide, enough, constant, same) = pair_similarities(
        few, [("points", "side"), ("side", "a"), ("a", "c"), ("a", "same")]
    )
    assert wide.note == "undefined: N - 1 <= d1 + d2"
    assert np.isnan(wide.tau)
    assert np.isnan(wide.chance)
    assert not np.isnan(enough.tau)
    assert (constant.tau, constant.note) == (0, "constant: second side")
    assert same.tau == pytest.approx(1)
    assert same.note == "identical features"
    (nobody,) = pair_similarities(none, [("side", "a")])
    assert (nobody.n, nobody.note) == (0, "undefined: no sample has all labels")


def test_groups_concatenate_their_members(features):
    joined = grouped(features, dict(all=("points", "a"), b=("b",)))
    assert joined["b"] is features["b"]
    assert np.array_equal(joined["all"], np.hstack([features["points"], features["a"]]))
    (found,) = pair_similarities(joined, [("all", "b")])
    (part,) = pair_similarities(features, [("points", "b")])
    assert found.tau >= part.tau - 1e-12


def test_matrix_is_symmetric_and_nan_for_unmeasured_pairs(features):
    pairs = [("a", "b"), ("side", "a")]
    matrix = similarity_matrix(["a", "b", "side"], pairs, pair_similarities(features, pairs))
    assert np.array_equal(matrix, matrix.T, equal_nan=True)
    assert matrix[0, 1] == pytest.approx(expected(features, "a", "b"))
    assert np.isnan(matrix[1, 2])
    assert (matrix.diagonal() == 1).all()


def test_clusters_are_adjacent():
    block = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    matrix = np.where(block[:, None] == block, 0.8, 0.1)
    np.fill_diagonal(matrix, 1)
    matrix[0, 1] = matrix[1, 0] = np.nan
    order = clustered_order(matrix)
    assert sorted(order) == list(range(8))
    assert (np.diff(block[order]) != 0).sum() == 2
    assert clustered_order(np.eye(2)) == [0, 1]
