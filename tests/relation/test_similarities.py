"""Every similarity by name: against its definition, and its gradient against autograd."""

import copy

import pytest
import torch
from reference import layer_of, shrunk, similarity_of_covariances
from test_layer import batches

from trn_plugin.relation import SIMILARITIES, Similarity

EPSILON = 1e-3


def largest(s11, s12, s22):
    return similarity_of_covariances(shrunk(s11, EPSILON), s12, shrunk(s22, EPSILON))


def pillai(s11, s12, s22):
    left = torch.linalg.solve(shrunk(s11, EPSILON), s12)
    return (left @ torch.linalg.solve(shrunk(s22, EPSILON), s12.T)).trace() / min(s12.shape)


def cka(s11, s12, s22):
    return s12.square().sum() / (s11.norm() * s22.norm())


DEFINITIONS = dict(largest=largest, pillai=pillai, cka=cka)


@pytest.fixture(params=SIMILARITIES)
def name(request):
    return request.param


@pytest.mark.parametrize(("d1", "d2"), [(1, 1), (6, 4), (4, 6), (80, 70)])
def test_value_and_gradient_are_those_of_the_definition(name, d1, d2):
    layer = layer_of(0.0, EPSILON, statistic=name)
    for f1, f2 in batches(2, 200, d1, d2):
        x1, x2 = f1 - f1.mean(0), f2 - f2.mean(0)
        expected = DEFINITIONS[name](x1.T @ x1, x1.T @ x2, x2.T @ x2)
        value = layer(f1, f2)
        assert value.item() == pytest.approx(expected.item(), abs=1e-10)
        ours, theirs = (torch.autograd.grad(v, (f1, f2)) for v in (value, expected))
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).norm() <= 1e-8 * b.norm()


def test_gradcheck(name):
    layer = layer_of(0.9, 0.1, statistic=name)
    *before, (f1, f2) = batches(3, 12, 4, 3)
    for pair in before:
        layer(*pair)
    assert torch.autograd.gradcheck(lambda a, b: copy.deepcopy(layer)(a, b), (f1, f2))


def test_symmetric_and_within_0_and_1(name):
    for scale in (1e-8, 1.0, 1e8):
        for f1, f2 in batches(2, 50, 5, 3):
            f1 = scale * f1.detach()
            one, other = (layer_of(0.0, statistic=name)(*f) for f in ((f1, f2), (f2, f1)))
            assert one.item() == pytest.approx(other.item(), abs=1e-12)
            assert 0 <= one <= 1


def test_of_a_task_without_variance_it_is_0_with_gradient_0(name):
    layer = layer_of(0.9, statistic=name)
    f1, f2 = torch.randn(20, 3, requires_grad=True), torch.full((20, 2), 0.3, requires_grad=True)
    value = layer(f1, f2)
    assert value == 0
    assert not any(g.any() for g in torch.autograd.grad(value, (f1, f2)))


class SumOfCorrelations(Similarity):
    def value(self, s11, s12, s22, shrinkage):
        first, second = (s.diagonal(dim1=-2, dim2=-1) for s in (s11, s22))
        return (s12.square() / (first[:, :, None] * second[:, None])).mean((-2, -1))


def test_a_custom_similarity_gets_its_gradient_from_autograd(monkeypatch):
    monkeypatch.setitem(SIMILARITIES, "mine", SumOfCorrelations())
    layer = layer_of(0.9, statistic="mine")
    *before, (f1, f2) = batches(3, 12, 4, 3)
    for pair in before:
        layer(*pair)
    assert 0 < layer(f1, f2) < 1
    assert torch.autograd.gradcheck(lambda a, b: copy.deepcopy(layer)(a, b), (f1, f2))
    several = layer_of(0.9, statistic="mine", deletion="listwise")
    value = several(f1, f2, f1[:, :2])
    value.sum().backward()
    assert f1.grad.isfinite().all()


def test_values_from_unrelated_to_identical_features():
    torch.manual_seed(0)
    x, y = torch.randn(2, 4000, 6)
    pairs = y, torch.cat([x[:, :1], y[:, 1:]], 1), x @ torch.randn(6, 6)
    for other, expected in zip(pairs, (0, 1 / 6, 1), strict=True):
        value = layer_of(0, statistic="pillai")(x, other)
        assert value.item() == pytest.approx(expected, abs=0.01)


def test_bad_options():
    with pytest.raises(ValueError, match=r"statistic: expected 'largest' or 'pillai' or 'cka'"):
        layer_of(statistic="roy")
    with pytest.raises(ValueError, match="correct_chance: needs statistic"):
        layer_of(statistic="pillai", correct_chance=True)
