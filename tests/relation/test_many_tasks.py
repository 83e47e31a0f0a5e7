"""A layer of several tasks equals layers of two tasks."""

import copy
from itertools import combinations

import pytest
import torch
from reference import layer_of, on_host_only
from test_layer import batches, gradients

WIDTHS = [(1, 1, 1, 1), (3, 1, 4, 3), (5, 5, 2), (120, 100, 4), (60, 70, 80)]


def features(dims, n, seed=0, steps=4):
    g = torch.Generator().manual_seed(seed)
    mixing = [torch.randn(3, d, generator=g).double() for d in dims]
    for _ in range(steps):
        common = torch.randn(n, 3, generator=g).double()
        yield [
            (common @ w + torch.randn(n, w.shape[1], generator=g)).requires_grad_() for w in mixing
        ]


def masks_of(dims, n, seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(n, generator=g) < 0.7 for _ in dims]


def one_by_one(dims, steps, masks=None, **options):
    """taus (steps, P) and the gradient of their sum, of a layer for each pair."""
    layers = {pair: layer_of(0.9, **options) for pair in combinations(range(len(dims)), 2)}
    taus, grads = [], []
    for step, fs in enumerate(steps):
        row = []
        for (i, j), layer in layers.items():
            mask = None if masks is None else masks[step][i] & masks[step][j]
            row.append(layer(fs[i], fs[j], mask=mask))
        taus.append(torch.stack(row))
        grads.append(gradients(taus[-1].sum(), *fs))
    return torch.stack(taus), grads


@pytest.mark.parametrize(
    ("dims", "statistic"), [*((dims, "largest") for dims in WIDTHS), ((3, 1, 4, 3), "pillai")]
)
@pytest.mark.parametrize("deletion", ["pairwise", "listwise"])
def test_all_pairs_equal_layers_of_their_own(dims, statistic, deletion):
    steps = list(features(dims, 16))
    expected, expected_grads = one_by_one(dims, steps, statistic=statistic)
    layer = layer_of(0.9, deletion=deletion, statistic=statistic)
    for step, fs in enumerate(steps):
        taus = layer(*fs)
        assert torch.allclose(taus, expected[step], atol=1e-10)
        for ours, theirs in zip(gradients(taus.sum(), *fs), expected_grads[step], strict=True):
            assert (ours - theirs).norm() <= 1e-7 * theirs.norm()
    assert layer.effective_sample_size.shape == taus.shape


@pytest.mark.parametrize("dims", WIDTHS[:3])
def test_pairs_with_missing_labels_use_the_samples_that_have_both(dims):
    steps = list(features(dims, 24))
    masks = [masks_of(dims, 24, seed) for seed in range(len(steps))]
    expected, expected_grads = one_by_one(dims, steps, masks)
    layer = layer_of(0.9)
    for step, fs in enumerate(steps):
        dirty = [
            torch.where(m[:, None], f.detach(), torch.nan).requires_grad_()
            for f, m in zip(fs, masks[step], strict=True)
        ]
        taus = layer(*dirty, mask=masks[step])
        assert torch.allclose(taus, expected[step], atol=1e-10)
        for ours, theirs in zip(gradients(taus.sum(), *dirty), expected_grads[step], strict=True):
            assert torch.allclose(ours, theirs, atol=1e-12)


def test_listwise_deletion_uses_the_samples_that_have_all_labels():
    dims = (3, 1, 4, 3)
    (fs,) = features(dims, 40, steps=1)
    masks = masks_of(dims, 40, 1)
    rows = torch.stack(masks).all(0)
    taus = layer_of(0.9, deletion="listwise")(*fs, mask=masks)
    expected = layer_of(0.9)(*(f[rows] for f in fs))
    assert torch.allclose(taus, expected, atol=1e-12)


def test_a_pair_without_two_samples_stays_while_the_others_go_on():
    dims = (2, 3, 2)
    first, second = features(dims, 12, steps=2)
    layer = layer_of(0.9)
    before = layer(*first)
    none = torch.zeros(12, dtype=torch.bool)
    taus = layer(*second, mask=[~none, ~none, none])
    assert taus[0] != before[0]
    assert torch.equal(taus[1:], before[1:])
    assert not gradients(taus[1:].sum(), second[2])[0].any()


def test_chosen_pairs_in_their_order():
    dims = (2, 3, 4)
    (fs,) = features(dims, 12, steps=1)
    every = layer_of(0.9)(*fs)
    for deletion in ("pairwise", "listwise"):
        some = layer_of(0.9, pairs=[(2, 1), (0, 1)], deletion=deletion)(*fs)
        assert torch.allclose(some, every[[2, 0]], atol=1e-12)


def test_forty_attributes_are_the_correlations_of_the_labels():
    g = torch.Generator().manual_seed(0)
    labels = (torch.rand(500, 40, generator=g) < 0.3).double()
    labels[:, 1::2] = torch.where(torch.rand(500, 20, generator=g) < 0.7, labels[:, ::2], 0.0)
    layer = layer_of(0.0, shrinkage=1e-9, deletion="listwise")
    taus = layer(*labels.split(1, 1))
    i, j = torch.triu_indices(40, 40, offset=1)
    assert torch.allclose(taus, labels.T.corrcoef()[i, j].abs(), atol=1e-6)


@pytest.mark.parametrize("deletion", ["pairwise", "listwise"])
def test_state_of_many_tasks_is_saved_and_continued_bit_for_bit(deletion):
    steps = list(features((120, 100, 4), 16, steps=6))
    layer = layer_of(0.9, deletion=deletion)
    for fs in steps[:3]:
        layer(*fs)
    restored = layer_of(0.9, deletion=deletion)
    restored.load_state_dict(layer.state_dict())
    for fs in steps[3:]:
        assert torch.equal(layer(*fs), restored(*fs))
    assert restored.exact_rate == layer.exact_rate


@on_host_only
def test_every_nonfinite_task_is_named_and_the_batch_left_out():
    layer = layer_of(0.9, names=("a", "b", "c"))
    first, second = features((2, 3, 2), 12, steps=2)
    layer(*first)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    spoiled = [f.detach().clone() for f in second]
    spoiled[0][0] = torch.inf
    spoiled[2][0] = torch.nan
    with pytest.raises(ValueError, match=r"^a and c: the features hold values that are not finite"):
        layer(*spoiled)
    kept = layer.state_dict()
    sets = layer.groups[0].sets
    assert all(torch.equal(kept[k], v) for k, v in before.items() if "groups" in k), sets


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: layer_of()(x), "two tasks or more, found 1"),
        (lambda x: layer_of(deletion="none"), "'pairwise' or 'listwise', found 'none'"),
        (lambda x: layer_of(pairs=[(0, 2)])(x, x), r"two of the 2 tasks, found \(0, 2\)"),
        (lambda x: layer_of(pairs=[(0, 1), (1, 0)])(x, x), "each pair once, found"),
        (lambda x: layer_of(names=("a", "b"))(x, x, x), "features of a, b, found 3"),
        (lambda x: layer_of()(x, x, mask=torch.ones(3)), "mask: expected bool"),
        (lambda x: layer_of()(x, x, mask=[torch.ones(8) > 0]), "one for each task, found 1"),
    ],
)
def test_bad_calls_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(8, 2))


def test_two_tasks_are_the_special_case():
    ((f1, f2),) = batches(1, 16, 3, 2)
    alone = layer_of(0.9)(f1, f2)
    among = layer_of(0.9, pairs=[(0, 1)])(f1, f2, f1)
    assert alone.ndim == 0
    assert among.shape == (1,)
    assert among.item() == pytest.approx(alone.item(), abs=1e-14)


@pytest.mark.parametrize("dims", [(3, 4, 2), (100, 120, 3)])
@on_host_only
def test_a_nonfinite_task_leaves_the_batch_out_of_all_pairs(dims):
    layer = layer_of(0.9, deletion="pairwise")
    g = torch.Generator().manual_seed(0)
    features = [torch.randn(32, d, generator=g) for d in dims]
    layer(*features)
    before = copy.deepcopy(layer.state_dict())
    for task in range(3):
        broken = [f.clone() for f in features]
        broken[task][5, 1] = float("inf")
        with pytest.raises(ValueError, match=f"^f{task + 1}: "):
            layer(*broken)
        for name, value in layer.state_dict().items():
            assert torch.equal(value, before[name]), name
