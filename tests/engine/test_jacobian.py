"""Runs with JacobianOptimWrapper: exact resuming, skipped steps, refused options."""

import sys
from importlib.util import find_spec

import pytest
import tiny
import torch
from tiny import EVERY_OTHER, assert_same, result_of, stopped_and_resumed, tiny_runner, whole
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trn_plugin.balancing import JacobianOptimWrapper
from trn_plugin.errors import ConfigError

pytest.importorskip("torchjd", reason="needs the extra torchjd")
pytest.importorskip("quadprog", reason="UPGrad needs TorchJD's extra quadprog_projector")


def jacobian(name="UPGrad", **options):
    arguments = options.pop("arguments", {})
    aggregator = dict(type=name, **arguments)
    return dict(type="JacobianOptimWrapper", aggregator=aggregator, shared="body", **options)


@pytest.mark.parametrize(
    ("optim", "stop"),
    [
        (jacobian("UPGrad"), 9),
        (jacobian("PCGrad", clip_grad=dict(max_norm=1.0)), 9),
        (jacobian("UPGrad", accumulative_counts=3), 11),  # in the middle of an accumulation
    ],
)
def test_resumed_equals_whole(tmp_path, optim, stop):
    options = dict(optim=optim, checkpoint=EVERY_OTHER)
    rest = stopped_and_resumed(tmp_path, (stop,), **options)
    assert_same(result_of(rest), result_of(whole(tmp_path, **options)))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "optim", [jacobian("GradVac"), jacobian("NashMTL", arguments=dict(n_tasks=2))]
)
def test_resuming_an_aggregator_with_state_is_refused(tmp_path, optim):
    name = optim["aggregator"]["type"]
    if name == "NashMTL" and None in (find_spec("cvxpy"), find_spec("ecos")):
        pytest.skip("NashMTL needs the extra torchjd")
    options = dict(optim=optim, train_cfg=dict(by_epoch=True, max_epochs=1))
    tiny_runner(tmp_path, **options).train()
    run = tiny_runner(tmp_path, resume=True, **options)
    with pytest.raises(ConfigError, match=rf"{name} cannot be resumed"):
        run.train()


def test_upgrad_with_one_task_is_plain_training(tmp_path, monkeypatch):
    forward = tiny.TinyModel.forward

    def one_loss(self, x, y, mode="tensor"):
        found = forward(self, x, y, mode)
        return {"loss_a": found["loss_a"] + found["loss_b"]} if mode == "loss" else found

    monkeypatch.setattr(tiny.TinyModel, "forward", one_loss)
    results = []
    for name, optim in (("plain", {}), ("upgrad", jacobian("UPGrad"))):
        run = tiny_runner(tmp_path, name, optim=optim)
        run.train()
        results.append(result_of(run))
    assert_same(*results)


def test_a_non_finite_step_is_skipped(tmp_path):
    def spoil(x, y):
        spoil.count += 1
        return x, y * float("nan") if spoil.count == 4 else y

    spoil.count = 0
    run = tiny_runner(tmp_path, optim=jacobian(), cfg=dict(non_finite="skip"))
    run.model.spoil = spoil
    run.train()
    assert run.message_hub.get_info("skipped_steps") == 1
    assert all(bool(p.isfinite().all()) for p in run.model.parameters())


def built(**config):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    return JacobianOptimWrapper(optimizer, **config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(aggregator=dict(type="UpGrad")), r"type: expected one of .*UPGrad.*'UpGrad'"),
        (dict(aggregator="UpGrad"), r"type: expected one of .*UPGrad.*'UpGrad'"),
        (dict(), r"an aggregator of TorchJD, such as 'UPGrad'.* found None"),
        (dict(aggregator=["UPGrad"]), r"an aggregator of TorchJD.* found \['UPGrad'\]"),
        (dict(aggregator=dict(type="Aggregator")), r"type: expected one of"),
        (dict(aggregator=dict(type="UPGrad", speed=3)), r"UPGrad: .*speed"),
        (dict(aggregator=dict(type="UPGrad"), relation_losses="no"), r"'row' or 'tasks'.*'no'"),
    ],
)
def test_a_wrong_config_is_a_one_line_error(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        built(**config)
    assert "\n" not in str(caught.value)


def test_an_aggregator_can_be_given_by_name():
    assert type(built(aggregator="UPGrad").aggregator).__name__ == "UPGrad"


def test_a_missing_torchjd_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ConfigError, match=r"pip install trn-plugin\[torchjd\]"):
        built(aggregator=dict(type="UPGrad"))


def test_compiled_models_are_refused(tmp_path):
    run = tiny_runner(tmp_path, optim=jacobian(), cfg=dict(compile=True))
    with pytest.raises(ConfigError, match="compile: not with JacobianOptimWrapper"):
        run.train()


def test_a_wrong_number_of_rows_is_a_one_line_error(tmp_path):
    optim = jacobian("Constant", arguments=dict(weights=[1.0, 1.0, 1.0]))
    with pytest.raises(ConfigError, match=r"Constant cannot aggregate 2 rows \(a, b\)"):
        tiny_runner(tmp_path, optim=optim).train()


def test_resuming_with_another_aggregator_warns(tmp_path):
    told = []
    for name in ("UPGrad", "PCGrad"):
        optim = jacobian(name)
        options = dict(optim=optim, cfg=dict(optim_wrapper=optim), resume=name == "PCGrad")
        run = tiny_runner(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=1), **options)
        run.logger.warning = told.append
        run.train()
    assert "optim_wrapper.aggregator.type (was 'UPGrad', is 'PCGrad')" in told[-1]


def test_gradients_keep_the_memory_format_of_their_parameters(tmp_path):
    """Fused optimizers require it on a GPU, and channels_last changes it."""
    run = tiny_runner(tmp_path, optim=jacobian(), train_cfg=dict(by_epoch=True, max_epochs=1))
    weight = run.model.body[0].weight
    weight.data = weight.data.t().contiguous().t()
    found = set()
    before = register_optimizer_step_pre_hook(lambda *_: found.add(weight.grad.stride()))
    run.train()
    before.remove()
    assert found == {weight.stride()} == {(1, 8)}
