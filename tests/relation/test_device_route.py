"""The code path of accelerators: exact, without host synchronisation."""

import copy
from collections import Counter

import pytest
import torch
from reference import layer_of, on_host_only
from test_layer import batches, gradients
from torch.utils._python_dispatch import TorchDispatchMode

from trn_plugin.relation import TaskRelationLayer, measure_together, precision
from trn_plugin.relation.solvers import exact

pytestmark = on_host_only


WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.item")
VIEWS = """
    alias as_strided detach diagonal empty empty_like empty_strided expand lift_fresh new_empty
    new_empty_strided permute promote_types scalar_tensor select slice split split_with_sizes
    squeeze t transpose unbind unsqueeze view _reshape_alias _unsafe_view
"""


class Operations(TorchDispatchMode):
    """Counts dispatched operators."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function).rsplit(".", 1)[0]] += 1
        return function(*args, **(kwargs or {}))

    @property
    def launches(self):
        views = {f"aten.{name}" for name in VIEWS.split()}
        return sum(n for name, n in self.counts.items() if name not in views)


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Runs the code path of accelerators on the CPU."""
    monkeypatch.setattr(precision, "on_host", lambda device: False)


def pencil(d1, d2, values, seed=0, copies=2):
    """Covariances whose canonical correlations are ``values``."""
    g = torch.Generator().manual_seed(seed)
    r1, r2 = (torch.randn(copies, d, d, generator=g).double() for d in (d1, d2))
    u, v = torch.linalg.qr(r1)[0], torch.linalg.qr(r2)[0]
    core = torch.zeros(d1, d2).double()
    core[range(len(values)), range(len(values))] = torch.tensor(values).double()
    return r1 @ r1.mT, r1 @ u.mT @ core @ v @ r2.mT, r2 @ r2.mT


def solve(s11, s12, s22):
    return exact.solve(s11, s12, s22, 1e-9)


@pytest.mark.parametrize(
    ("d1", "d2", "values"),
    [
        (6, 4, (0.9, 0.899, 0.2)),
        (4, 7, (0.9575, 0.9557)),
        (30, 30, (1.0, 0.99)),
        (90, 70, (0.9, 0.899, 0.2)),
        (1, 5, (0.3,)),
    ],
)
def test_powers_of_a_matrix_find_what_lapack_finds(d1, d2, values, monkeypatch):
    s = pencil(d1, d2, values)
    expected = solve(*s)
    monkeypatch.setattr(precision, "on_host", lambda device: False)
    found = solve(*s)
    assert torch.allclose(found[0], expected[0], atol=1e-12)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        sign = (ours * theirs).sum(1, keepdim=True).sign()
        assert (ours - sign * theirs).norm() <= 1e-8 * theirs.norm()


@pytest.mark.parametrize("values", [(0.7, 0.7, 0.1), (0.0, 0.0)])
def test_equal_values_and_no_relation_stay_finite(values, as_on_a_device):
    tau, a, b = solve(*pencil(5, 4, values))
    assert torch.allclose(tau, torch.tensor(values[0]).double(), atol=1e-7)
    assert torch.isfinite(a).all()
    assert torch.isfinite(b).all()


@pytest.mark.parametrize("dims", [(3, 2), (3, 4, 2), (1, 1, 1, 1), (120, 100, 4)])
@pytest.mark.parametrize("deletion", ["pairwise", "listwise"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("statistic", ["largest", "pillai", "cka"])
def test_the_two_routes_agree(dims, deletion, masked, statistic, monkeypatch):
    options = dict(deletion=deletion, statistic=statistic)
    layers = layer_of(0.9, **options), layer_of(0.9, **options)
    g = torch.Generator().manual_seed(0)
    for _ in range(4):
        common = torch.randn(600, 1, generator=g).double()
        features = [torch.randn(600, d, generator=g).double() + common for d in dims]
        mask = [torch.rand(600, generator=g) < 0.8 for _ in dims] if masked else None
        results = []
        for layer, host in zip(layers, (True, False), strict=True):
            monkeypatch.setattr(precision, "on_host", lambda device, host=host: host)
            own = [f.clone().requires_grad_() for f in features]
            tau = layer(*own, mask=mask)
            results.append((tau, *gradients(tau.sum(), *own)))
        for ours, theirs in zip(*results, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9)


def test_a_nonfinite_batch_is_left_out_and_reported_later(as_on_a_device):
    layer = layer_of(0.9, names=("a", "b", "c"))
    steps = [[f.detach() for f in pair] + [pair[0].detach()] for pair in batches(3, 12, 3, 2)]
    layer(*steps[0])
    before = copy.deepcopy(layer.state_dict())
    broken = [f.clone().requires_grad_() for f in steps[1]]
    with torch.no_grad():
        broken[1][3, 1] = torch.nan
    found = gradients(layer(*broken).sum(), *broken)
    assert not any(g.any() for g in found)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(ValueError, match=r"^b: the features hold values that are not finite"):
        layer(*steps[2])


@pytest.mark.parametrize("dims", [(10, 5), (128, 130), (1, 1, 1, 1), (4, 3, 4)])
@pytest.mark.parametrize("deletion", ["pairwise", "listwise"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_step_reads_no_value(dims, deletion, masked, as_on_a_device):
    layer = TaskRelationLayer(0.9, deletion=deletion, correct_chance=True, dims=dims)
    layer._flags.take = list  # the host reads these when they have been copied
    for _ in range(3):
        features = [torch.randn(40, d, requires_grad=True) for d in dims]
        mask = [torch.rand(40) < 0.8 for _ in dims] if masked else None
        with Operations() as operations:
            layer(*features, mask=mask).sum().backward()
        assert not [name for name in operations.counts if name in WAITS]


@pytest.mark.parametrize("dims", [(10, 5), (128, 130), (1, 1, 1, 1), (4, 3, 4)])
@pytest.mark.parametrize("deletion", ["pairwise", "listwise"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_step_runs_without_values(dims, deletion, masked):
    """Tensors on the meta device have no values: reading one is an error."""
    layer = TaskRelationLayer(0.9, deletion=deletion, correct_chance=True)
    for _ in range(2):
        features = [torch.empty(16, d, device="meta", requires_grad=True) for d in dims]
        mask = [torch.empty(16, dtype=torch.bool, device="meta") for _ in dims] if masked else None
        layer(*features, mask=mask).sum().backward()
        assert all(f.grad.shape == f.shape for f in features)


@pytest.mark.parametrize(
    ("dims", "forward", "backward"),
    [((10, 5), 85, 23), ((512, 512), 80, 23)],  # 174 and 33 at commit 95791b7
)
def test_a_step_launches_few_kernels(dims, forward, backward):
    layer = TaskRelationLayer(0.99)
    for _ in range(2):
        features = [torch.empty(128, d, device="meta", requires_grad=True) for d in dims]
        with Operations() as first:
            tau = layer(*features)
        with Operations() as second:
            tau.backward()
    assert first.launches <= forward
    assert second.launches <= backward


@pytest.mark.parametrize("statistic", ["largest", "pillai"])
def test_layers_measured_together_are_as_those_alone(statistic, as_on_a_device):
    widths = ((10, 5), (10, 5), (7, 5), (4, 4, 4))
    alone, together = ([layer_of(0.9, statistic=statistic) for _ in widths] for _ in range(2))
    for step in range(3):
        g = torch.Generator().manual_seed(step)
        features = [
            [torch.randn(90, d, generator=g, requires_grad=True) for d in dims] for dims in widths
        ]
        masks = [None, torch.rand(90, generator=g) < 0.8, None, None]
        results = [
            [
                layer(*own, mask=mask)
                for layer, own, mask in zip(alone, features, masks, strict=True)
            ],
            measure_together(together, features, masks),
        ]
        for tau, other, own in zip(*results, features, strict=True):
            torch.testing.assert_close(other, tau, rtol=1e-6, atol=1e-7)
            for ours, theirs in zip(
                gradients(other.sum(), *own), gradients(tau.sum(), *own), strict=True
            ):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_predictions_and_labels_of_equal_widths_cost_one_solution():
    layers = [TaskRelationLayer(0.99) for _ in range(3)]
    dims = (512, 512), (10, 5), (10, 5)
    for _ in range(2):
        features = [
            [torch.empty(128, d, device="meta", requires_grad=True) for d in own] for own in dims
        ]
        with Operations() as together:
            measure_together(layers, features, [None] * 3)
    assert together.launches <= 205  # 510 one by one at commit 95791b7
