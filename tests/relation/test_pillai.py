"""The mean squared canonical correlation: against its definition, and autograd through it."""

import copy

import pytest
import torch
from reference import inverse_sqrt, layer_of, shrunk


def batches(steps, n, *dims, seed=0):
    g = torch.Generator().manual_seed(seed)
    mixing = [torch.randn(2, d, generator=g, dtype=torch.float64) for d in dims]
    for _ in range(steps):
        common = torch.randn(n, 2, generator=g, dtype=torch.float64)
        noise = (torch.randn(n, d, generator=g, dtype=torch.float64) for d in dims)
        yield [(common @ w + e).requires_grad_() for w, e in zip(mixing, noise, strict=True)]


class Reference:
    """Algorithm 1 with another statistic, differentiated by autograd."""

    def __init__(self, momentum, shrinkage, d1, d2):
        self.m, self.shrinkage, self.d1 = momentum, shrinkage, d1
        self.s = torch.eye(d1 + d2).double()

    def __call__(self, f1, f2):
        x = torch.cat([f1 - f1.mean(0), f2 - f2.mean(0)], 1)
        s = self.m * self.s + (1 - self.m) * x.T @ x
        self.s, d = s.detach(), self.d1
        whitened = (
            inverse_sqrt(shrunk(s[:d, :d], self.shrinkage))
            @ s[:d, d:]
            @ inverse_sqrt(shrunk(s[d:, d:], self.shrinkage))
        )
        return torch.linalg.svdvals(whitened).square().mean()


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
@pytest.mark.parametrize(("d1", "d2", "n"), [(1, 1, 16), (10, 5, 32), (5, 10, 32), (100, 100, 300)])
def test_every_step_equals_its_definition_and_autograd(momentum, d1, d2, n):
    layer = layer_of(momentum, shrinkage=1e-3, statistic="pillai", start="identity")
    reference = Reference(momentum, 1e-3, d1, d2)
    for f1, f2 in batches(3, n, d1, d2):
        value, expected = layer(f1, f2), reference(f1, f2)
        assert value.item() == pytest.approx(expected.item(), abs=1e-10)
        ours, theirs = (torch.autograd.grad(v, (f1, f2)) for v in (value, expected))
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).norm() <= 1e-8 * b.norm()


def test_pairs_of_many_tasks_equal_layers_of_their_own():
    dims = (3, 3, 5)
    joint = layer_of(0.9, statistic="pillai")
    alone = [layer_of(0.9, statistic="pillai") for _ in range(3)]
    for features in batches(4, 20, *dims):
        values = joint(*features)
        single = [
            layer(features[i], features[j])
            for layer, (i, j) in zip(alone, joint.pairs, strict=True)
        ]
        torch.testing.assert_close(values, torch.stack(single))
        weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        ours = torch.autograd.grad((weights * values).sum(), features)
        theirs = torch.autograd.grad((weights * torch.stack(single)).sum(), features)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_gradcheck_of_one_step():
    layer = layer_of(0.9, 0.1, statistic="pillai")
    *warm, (f1, f2) = batches(3, 12, 4, 3)
    for pair in warm:
        layer(*pair)
    assert torch.autograd.gradcheck(lambda a, b: copy.deepcopy(layer)(a, b), (f1, f2))


def test_from_unrelated_to_the_same():
    torch.manual_seed(0)
    x, y = torch.randn(2, 4000, 6)
    measured = {}
    for name, other in (("unrelated", y), ("one of six", torch.cat([x[:, :1], y[:, 1:]], 1))):
        measured[name] = float(layer_of(0, statistic="pillai")(x, other))
    measured["the same"] = float(layer_of(0, statistic="pillai")(x, x @ torch.randn(6, 6)))
    assert measured["unrelated"] < 0.01
    assert measured["one of six"] == pytest.approx(1 / 6, abs=0.01)
    assert measured["the same"] == pytest.approx(1, abs=1e-3)


def test_dead_features_are_finite():
    layer = layer_of(0.9, statistic="pillai")
    for f1, f2 in batches(20, 8, 12, 4):
        dead = (f1 * torch.tensor([1.0] * 6 + [0.0] * 6)).detach().float().requires_grad_()
        constant = torch.full((8, 4), 0.5, requires_grad=True)
        for second in (f2.detach().float().requires_grad_(), constant):
            value = layer(dead, second)
            assert 0 <= value <= 1
            assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value, (dead, second)))


def test_bad_options():
    with pytest.raises(ValueError, match=r"statistic: expected 'largest' or 'pillai' or 'cka'"):
        layer_of(statistic="roy")
    with pytest.raises(ValueError, match="correct_chance: needs statistic"):
        layer_of(statistic="pillai", correct_chance=True)
