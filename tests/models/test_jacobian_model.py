"""TorchJD's aggregators on the multi-task model with relation losses."""

from importlib.util import find_spec

import pytest
import torch
from builders import batch
from jacobian_steps import (
    SIZE,
    assert_close,
    relation_model,
    step,
    trained,
    trunk_of,
    wrapper_of,
)

from trn_plugin.errors import ConfigError

pytest.importorskip("torchjd", reason="needs the extra torchjd")
pytest.importorskip("quadprog", reason="UPGrad needs TorchJD's extra quadprog_projector")
solvers = pytest.mark.skipif(
    None in (find_spec("cvxpy"), find_spec("ecos")),
    reason="NashMTL and CAGrad need the extra torchjd",
)


AGGREGATORS = [
    *(dict(type=name) for name in ("UPGrad", "PCGrad", "IMTLG", "AlignedMTL", "MGDA", "DualProj")),
    *(dict(type=name) for name in ("GradDrop", "GradVac", "ConFIG", "Mean", "Sum", "Random")),
    dict(type="Constant", weights=[1.0, 2.0, 0.5]),
    dict(type="UPGrad", pref_vector=[1.0, 1.0, 1.0]),
    dict(type="FairGrad", alpha=1.0),
    pytest.param(dict(type="CAGrad", c=0.4), marks=solvers),
    pytest.param(dict(type="NashMTL", n_tasks=3), marks=solvers),
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda config: config["type"])
def test_each_aggregator_trains(aggregator):
    model = relation_model()
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    after = trained(model, wrapper_of(model, aggregator), steps=2)
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert not torch.equal(trunk_of(after), trunk_of(before))


@pytest.mark.parametrize("relation_losses", ["row", "tasks"])
def test_the_sum_of_the_rows_is_plain_training(relation_losses):
    """For shared parameters, tails and heads."""
    plain, other = relation_model(), relation_model()
    expected = trained(plain, wrapper_of(plain))
    options = dict(relation_losses=relation_losses)
    assert_close(trained(other, wrapper_of(other, dict(type="Sum"), **options)), expected)


def test_only_the_trunk_is_aggregated():
    plain, other = relation_model(), relation_model()
    expected = trained(plain, wrapper_of(plain), steps=1)
    found = trained(other, wrapper_of(other, dict(type="UPGrad")), steps=1)
    assert not torch.allclose(trunk_of(found), trunk_of(expected))
    own = {k: v for k, v in expected.items() if not k.startswith("backbone.trunk.")}
    assert_close(found, own)


def test_upgrad_increases_no_loss():
    """To first order no loss grows: the Jacobian times the direction is >= 0."""
    model = relation_model(relation=0.0)
    wrapper = wrapper_of(model, dict(type="UPGrad"))
    x, samples = batch(16, SIZE)
    shared = list(model.backbone.trunk.parameters())
    losses = model(x, samples, mode="loss")
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(losses[k], shared, retain_graph=True)])
        for k in ("loss_landmarks", "loss_pose")
    ]
    model.zero_grad()
    with wrapper.optim_context(model):
        total, _ = model.parse_losses(model(x, samples, mode="loss"))
    wrapper.optimizer.step = lambda: None
    wrapper.zero_grad = lambda: None
    wrapper.update_params(total)
    direction = torch.cat([p.grad.flatten() for p in shared])
    for row in rows:
        assert float(row @ direction) >= -1e-3 * float(row.norm() * direction.norm())


@pytest.mark.parametrize("name", ["UPGrad", "MGDA", "IMTLG"])
def test_a_task_without_labels_in_the_batch_does_not_count(name):
    """With a zero row, MGDA's vector of least norm would be zero."""
    missing = {(row, "pose") for row in range(16)}
    plain, other = relation_model(relation=0.0), relation_model(relation=0.0)
    expected = trained(plain, wrapper_of(plain), missing=missing)
    found = trained(other, wrapper_of(other, dict(type=name)), missing=missing)
    assert_close(found, expected)


def test_accumulated_jacobians_are_those_of_the_whole_batch():
    whole, parts = relation_model(relation=0.0), relation_model(relation=0.0)
    one = wrapper_of(whole, dict(type="UPGrad"))
    two = wrapper_of(parts, dict(type="UPGrad"), accumulative_counts=2)
    for number in range(2):
        x, samples = batch(16, SIZE, seed=number)
        step(whole, one, x, samples)
        step(parts, two, x[:8], samples[:8])
        step(parts, two, x[8:], samples[8:])
    assert_close(dict(parts.named_parameters()), dict(whole.named_parameters()))


def test_clipping_sees_the_aggregated_gradient():
    model = relation_model()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    clip = dict(max_norm=0.01)
    trained(model, wrapper_of(model, dict(type="UPGrad"), lr=1.0, clip_grad=clip), steps=1)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-2)


def test_a_wrong_number_of_rows_names_the_relation_losses():
    model = relation_model()
    wrapper = wrapper_of(model, dict(type="Constant", weights=[1.0, 1.0]))
    with pytest.raises(ConfigError, match=r"pose, relation losses; relation_losses='tasks'"):
        trained(model, wrapper, steps=1)


def test_nothing_shared_is_refused():
    model = relation_model(shared=0)
    with pytest.raises(ConfigError, match=r"backbone\.trunk"):
        trained(model, wrapper_of(model, dict(type="UPGrad")), steps=1)
