import math

import numpy as np
import pytest
import torch
from reference import offline
from sklearn.cross_decomposition import CCA

from trn_plugin.relation import chance_similarity, task_similarity, task_similarity_matrix


def related(n, d1, d2, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 2, generator=g, dtype=torch.float64)
    f1 = torch.randn(n, d1, generator=g, dtype=torch.float64)
    f2 = torch.randn(n, d2, generator=g, dtype=torch.float64)
    f1 = f1 + common @ torch.randn(2, d1, generator=g, dtype=torch.float64)
    f2 = f2 + common @ torch.randn(2, d2, generator=g, dtype=torch.float64)
    return f1.to(dtype), f2.to(dtype)


@pytest.mark.parametrize(("d1", "d2"), [(1, 1), (10, 5), (5, 40), (64, 64)])
def test_value_and_gradient_equal_the_reference(d1, d2):
    f1, f2 = (f.requires_grad_() for f in related(500, d1, d2))
    expected = offline(f1, f2)
    tau = task_similarity(f1, f2)
    assert tau.item() == pytest.approx(expected.item(), abs=1e-10)
    for ours, theirs in zip(
        torch.autograd.grad(tau, (f1, f2)), torch.autograd.grad(expected, (f1, f2)), strict=True
    ):
        assert (ours - theirs).norm() <= 1e-8 * theirs.norm()


def test_gradcheck():
    f1, f2 = related(20, 3, 2)
    assert torch.autograd.gradcheck(task_similarity, (f1.requires_grad_(), f2.requires_grad_()))


@pytest.mark.parametrize("seed", range(5))
def test_symmetric_and_invariant_to_affine_maps(seed):
    g = torch.Generator().manual_seed(seed)
    f1, f2 = related(300, 6, 4, seed)
    tau = task_similarity(f1, f2)
    assert 0 <= tau <= 1
    assert task_similarity(f2, f1).item() == pytest.approx(tau.item(), abs=1e-12)
    mapped = f1 @ torch.randn(6, 6, generator=g).double() * 1e6 + torch.randn(6, generator=g)
    assert task_similarity(mapped, f2 * 1e-9 - 3).item() == pytest.approx(tau.item(), abs=1e-6)
    order = torch.randperm(300, generator=g)
    assert task_similarity(f1[order], f2[order]).item() == pytest.approx(tau.item(), abs=1e-12)


def test_equals_scikit_learn():
    f1, f2 = related(400, 8, 5, seed=3)
    cca = CCA(n_components=1, max_iter=10000, tol=1e-12).fit(f1.numpy(), f2.numpy())
    a, b = cca.transform(f1.numpy(), f2.numpy())
    expected = abs(np.corrcoef(a[:, 0], b[:, 0])[0, 1])
    assert task_similarity(f1, f2).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_hot_and_softmax_lose_only_their_dependent_direction(dtype):
    g = torch.Generator().manual_seed(0)
    label = torch.randint(0, 5, (2000,), generator=g)
    one_hot = torch.nn.functional.one_hot(label, 5).to(dtype)
    points = torch.randn(2000, 10, generator=g, dtype=dtype) + one_hot @ torch.randn(
        5, 10, generator=g, dtype=dtype
    )
    tau = task_similarity(points, one_hot)
    assert tau.item() == pytest.approx(task_similarity(points, one_hot[:, 1:]).item(), abs=1e-6)
    softmax = (points[:, :4] @ torch.randn(4, 5, generator=g, dtype=dtype)).softmax(1)
    tau = task_similarity(points, softmax)
    assert tau.item() == pytest.approx(task_similarity(points, softmax[:, :4]).item(), abs=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12])
@pytest.mark.parametrize("kind", ["constant", "dead", "duplicate", "one sample", "wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_inputs_are_finite(kind, scale, dtype):
    f1, f2 = related(12, 4, 3, dtype=dtype)
    if kind == "constant":
        f1 = torch.full_like(f1, 0.1)
    elif kind == "dead":
        f1[:, 1:] = 0
    elif kind == "duplicate":
        f1 = f1[:, :1].expand(-1, 4).clone()
    elif kind == "one sample":
        f1, f2 = f1[:1], f2[:1]
    elif kind == "wide":
        f1 = torch.randn(12, 40, dtype=dtype)
    f1, f2 = (f1 * scale).requires_grad_(), (f2 / scale).requires_grad_()
    tau = task_similarity(f1, f2)
    tau.backward()
    assert 0 <= tau <= 1
    assert torch.isfinite(f1.grad).all()
    assert torch.isfinite(f2.grad).all()
    if kind in ("constant", "one sample"):
        assert tau == 0
        assert not f1.grad.any()
        assert not f2.grad.any()


@pytest.mark.parametrize(
    ("f1", "f2", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 1), r"f1: expected features of shape \(N, d\)"),
        (torch.zeros(3, 1), torch.zeros(4, 1), "f1 has 3 rows and f2 has 4"),
        (torch.zeros(3, 1), torch.zeros(3, 1).long(), "f2: expected floating-point"),
        (torch.tensor([[0.0], [math.nan]]), torch.zeros(2, 1), "f1: value at row 1, column 0 is"),
    ],
)
def test_bad_input_is_named(f1, f2, message):
    with pytest.raises(ValueError, match=message):
        task_similarity(f1, f2)


@pytest.mark.parametrize(
    ("n", "d1", "d2"), [(256, 64, 64), (2000, 64, 16), (1000, 10, 4), (300, 1, 5)]
)
def test_chance_is_what_independent_features_give(n, d1, d2):
    g = torch.Generator().manual_seed(0)
    taus = [
        task_similarity(torch.randn(n, d1, generator=g), torch.randn(n, d2, generator=g)).item()
        for _ in range(60)
    ]
    assert np.mean(taus) == pytest.approx(chance_similarity(n, d1, d2), abs=0.01)
    assert math.isnan(chance_similarity(d1 + d2 + 1, d1, d2))


def test_matrix_is_the_similarity_of_every_pair():
    g = torch.Generator().manual_seed(0)
    common = torch.randn(200, 3, generator=g)
    features = [
        common @ torch.randn(3, d, generator=g) + torch.randn(200, d, generator=g)
        for d in (1, 4, 1, 3, 4, 1)
    ]
    features.append(torch.nn.functional.one_hot(torch.randint(0, 3, (200,), generator=g)).float())
    features.append(torch.ones(200, 2))
    matrix = task_similarity_matrix(features)
    for i, f1 in enumerate(features):
        for j, f2 in enumerate(features):
            expected = task_similarity(f1, f2).item()
            assert matrix[i, j].item() == pytest.approx(expected, abs=1e-6), (i, j)


def test_matrix_names_the_task_that_does_not_fit():
    with pytest.raises(ValueError, match=r"features\[1\] has 4"):
        task_similarity_matrix([torch.zeros(3, 1), torch.zeros(4, 1)])
    with pytest.raises(ValueError, match=r"features\[1\]: value at row 2"):
        task_similarity_matrix([torch.zeros(3, 1), torch.tensor([[0.0], [0.0], [math.inf]])])


def test_matrix_of_scalars_knows_no_units_and_no_relation_of_a_constant():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=g, dtype=torch.float64)
    units = torch.tensor([1e-300, 1e300, -3.0, 1e-12], dtype=torch.float64)
    columns = [*(x * units).split(1, 1), torch.full((300, 1), 0.1), torch.zeros(300, 1)]
    matrix = task_similarity_matrix(columns)
    assert np.allclose(matrix[:4, :4], np.abs(np.corrcoef(x.T)), atol=1e-12)
    assert not matrix[4:].any()
    assert not matrix[:, 4:].any()


def test_finite_values_whose_sum_overflows_are_no_error():
    f1, f2 = related(50, 1, 1)
    huge = f1.abs() / f1.abs().max() * 1.7e308
    assert torch.isinf(huge.sum())
    expected = task_similarity(f1.abs(), f2).item()
    assert task_similarity(huge, f2).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("dtype", "steps"), [(torch.float16, 256), (torch.bfloat16, 16)])
def test_half_precision_gives_what_the_same_values_in_float64_give(dtype, steps):
    """Only the small difference of two columns is related."""
    g = torch.Generator().manual_seed(0)
    common, signal = torch.randn(2, 1000, 1, generator=g)
    left = (common * steps).round().clamp(-100, 100) / steps
    f1 = torch.cat([left, left + (signal > 0) / steps], 1).to(dtype)
    f2 = (signal > 0).to(dtype)
    tau, expected = task_similarity(f1, f2), task_similarity(f1.double(), f2.double())
    assert expected > 0.99
    assert tau.dtype == torch.float32
    assert tau.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("shape", [(200, 8), (6, 9), (50, 50)])
def test_a_decomposition_that_does_not_converge_falls_back(shape, monkeypatch):
    g = torch.Generator().manual_seed(0)
    f1, f2 = (
        torch.randn(*shape, generator=g).double(),
        torch.randn(shape[0], 3, generator=g).double(),
    )
    f1[:, -1] = f1[:, 0]
    f2[:, 0] += f1[:, 0]
    values = []
    for fails in (False, True):
        if fails:
            monkeypatch.setattr(torch.linalg, "svd", does_not_converge)
        inputs = [f.clone().requires_grad_() for f in (f1, f2)]
        tau = task_similarity(*inputs)
        values.append((tau, *torch.autograd.grad(tau, inputs)))
    for ours, theirs in zip(*values, strict=True):
        if shape[0] > sum(f.shape[1] for f in (f1, f2)) or ours.ndim == 0:
            assert torch.allclose(ours, theirs, atol=1e-9)


def does_not_converge(*args, **options):
    raise torch.linalg.LinAlgError("the algorithm failed to converge")
