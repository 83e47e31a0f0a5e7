"""What runs on accelerators: exact, and without a value that the host waits for."""

import pytest
import torch

from trn_plugin.relation import TaskRelationLayer
from trn_plugin.relation._canonical import canonical_vectors, factor


def pencil(d1, d2, values, seed=0, copies=2):
    """Moments whose canonical correlations are ``values``."""
    g = torch.Generator().manual_seed(seed)
    r1, r2 = (torch.randn(copies, d, d, generator=g).double() for d in (d1, d2))
    u, v = torch.linalg.qr(r1)[0], torch.linalg.qr(r2)[0]
    core = torch.zeros(d1, d2).double()
    core[range(len(values)), range(len(values))] = torch.tensor(values).double()
    return r1 @ r1.mT, r1 @ u.mT @ core @ v @ r2.mT, r2 @ r2.mT


@pytest.mark.parametrize(
    ("d1", "d2", "values"),
    [(6, 4, (0.9, 0.899, 0.2)), (4, 7, (0.9575, 0.9557)), (30, 30, (1.0, 0.99)), (1, 5, (0.3,))],
)
def test_powers_of_a_matrix_find_what_lapack_finds(d1, d2, values):
    s11, s12, s22 = pencil(d1, d2, values)
    factors = factor(s11, 1e-9), factor(s22, 1e-9)
    found, expected = (
        canonical_vectors(*factors[0], s12, *factors[1], on_host) for on_host in (False, True)
    )
    assert torch.allclose(found[0], expected[0], atol=1e-12)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        sign = (ours * theirs).sum(1, keepdim=True).sign()
        assert (ours - sign * theirs).norm() <= 1e-8 * theirs.norm()


@pytest.mark.parametrize("values", [(0.7, 0.7, 0.1), (0.0, 0.0)])
def test_equal_values_and_no_relation_stay_finite(values):
    s11, s12, s22 = pencil(5, 4, values)
    tau, a, b = canonical_vectors(*factor(s11, 1e-9), s12, *factor(s22, 1e-9), False)
    assert torch.allclose(tau, torch.tensor(values[0]).double(), atol=1e-7)
    assert torch.isfinite(a).all()
    assert torch.isfinite(b).all()


@pytest.mark.parametrize("dims", [(10, 5), (128, 130), (1, 1, 1, 1), (4, 3, 4)])
@pytest.mark.parametrize("deletion", ["pairwise", "listwise"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_step_asks_for_no_value(dims, deletion, masked):
    """Tensors on the meta device have no values: reading one is an error."""
    layer = TaskRelationLayer(0.9, deletion=deletion, correct_chance=True)
    for _ in range(2):
        features = [torch.empty(16, d, device="meta", requires_grad=True) for d in dims]
        mask = [torch.empty(16, dtype=torch.bool, device="meta") for _ in dims] if masked else None
        layer(*features, mask=mask).sum().backward()
        assert all(f.grad.shape == f.shape for f in features)
