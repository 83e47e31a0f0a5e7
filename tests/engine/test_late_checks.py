"""Steps do not synchronise with a GPU; the same code is forced on a CPU, and run on CUDA."""

import copy
import re

import pytest
import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.model import BaseDataPreprocessor
from test_finite import NAN, Root, Spoiled, label_of_b
from test_relation_loss import relation_hook, runner
from tiny import TinyModel, assert_same, result_of, tiny_runner
from torch.utils._python_dispatch import TorchDispatchMode

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.engine import finite
from trn_plugin.errors import TrainingError

FUSED = dict(optimizer=dict(type="Adam", lr=0.02, fused=True), clip_grad=dict(max_norm=5.0))


class CountWaits(TorchDispatchMode):
    """Counts how often the host reads a value from the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Between(Hook):
    """Enters a context before one iteration and leaves it after another, including hooks."""

    priority = "LOWEST"

    def __init__(self, context, first, last):
        self.context, self.first, self.last = context, first, last

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.first:
            self.context.__enter__()
        elif runner.iter + 1 == self.last:
            self.context.__exit__(None, None, None)


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setattr(finite, "reads_late", lambda device: True)


def late_runner(folder, name="run", model=None, optim=FUSED, interval=99, **options):
    torch.manual_seed(0)
    run = tiny_runner(folder, name, model=model or TinyModel(), optim_wrapper=optim, **options)
    next(hook for hook in run.hooks if isinstance(hook, LoggerHook)).interval = interval
    return run


def iterations(count):
    return dict(type="IterBasedTrainLoop", max_iters=count, val_interval=99)


@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize("action", ["stop", "skip"])
@pytest.mark.parametrize("clip", [None, dict(max_norm=5.0, error_if_nonfinite=True)])
def test_ten_steps_do_not_synchronise(tmp_path, monkeypatch, is_late, action, clip):
    monkeypatch.setattr(finite, "reads_late", lambda device: is_late)
    waits = CountWaits()
    run = late_runner(
        tmp_path,
        optim=dict(FUSED, clip_grad=clip),
        cfg=dict(non_finite=action),
        train_cfg=iterations(15),
        custom_hooks=[Between(waits, 2, 12)],
        samples=200,
    )
    run.train()
    assert run.iter == 15
    assert waits.count == 0 if is_late else waits.count >= 10
    assert len(run.message_hub.get_scalar("train/loss").data[0]) == 15


@pytest.mark.parametrize("accumulated", [1, 3])
def test_late_reading_does_not_change_a_run(tmp_path, monkeypatch, accumulated):
    results = []
    for name in ("at once", "late"):
        monkeypatch.setattr(finite, "reads_late", lambda device, name=name: name == "late")
        run = late_runner(tmp_path, name, optim=dict(FUSED, accumulative_counts=accumulated))
        run.train()
        results.append(result_of(run))
    assert_same(*results)


def test_a_bad_step_read_late_is_named_and_changes_nothing(tmp_path, late):
    torch.manual_seed(0)
    run = late_runner(tmp_path, model=Spoiled([9], label_of_b(NAN)), train_cfg=iterations(15))
    states = {}
    step = run.model.train_step

    def watched(data, optim_wrapper):
        states[run.iter + 1] = {k: v.clone() for k, v in result_of(run).items()}
        return step(data, optim_wrapper)

    run.model.train_step = watched
    with pytest.raises(TrainingError, match="iteration 9: loss_b is nan; the last"):
        run.train()
    assert max(states) > 9
    trained = [k for k in states[9] if "weight" in k or "bias" in k or k.startswith("optimizer")]
    for key in trained:
        assert torch.equal(states[9][key], states[10][key]), key
    assert any(not torch.equal(states[10][key], states[11][key]) for key in trained)


def test_a_bad_gradient_read_late_is_named(tmp_path, late):
    run = late_runner(tmp_path, model=Root(4), train_cfg=iterations(8))
    with pytest.raises(TrainingError, match=r"iteration 4: the gradient of heads\.b\.bias is not"):
        run.train()


def test_skipped_steps_read_late_are_those_read_at_once(tmp_path, monkeypatch, capsys):
    results, lines = [], []
    for name in ("at once", "late"):
        monkeypatch.setattr(finite, "reads_late", lambda device, name=name: name == "late")
        torch.manual_seed(0)
        model = Spoiled([3, 9, 10], label_of_b(NAN))
        run = late_runner(tmp_path, name, model=model, cfg=dict(non_finite="skip"), interval=4)
        run.train()
        results.append(result_of(run))
        out = capsys.readouterr().out
        lines.append(re.findall(r"iteration \d+: .* the step was skipped .*", out))
    assert lines[0] == lines[1]
    assert len(lines[0]) == 3
    assert_same(*results)


def test_a_checkpoint_waits_for_the_flags_of_earlier_steps(tmp_path, late):
    torch.manual_seed(0)
    run = late_runner(tmp_path, model=Spoiled([8], label_of_b(NAN)))
    with pytest.raises(TrainingError, match=r"iteration 8: .*; the last checkpoint is .*epoch_1"):
        run.train()
    state = load_checkpoint_file(tmp_path / "run" / "epoch_1.pth")["state_dict"]
    assert all(value.isfinite().all() for value in state.values())


def test_an_optimizer_that_cannot_skip_on_the_device_synchronises(tmp_path, late):
    torch.manual_seed(0)
    optim = dict(optimizer=dict(type="Adam", lr=0.02))
    run = late_runner(tmp_path, model=Spoiled([9], label_of_b(NAN)), optim=optim)
    with pytest.raises(TrainingError, match="iteration 9: loss_b is nan"):
        run.train()
    assert run.iter == 8


class NoWaits:
    """Makes synchronisation with the GPU an error."""

    def __enter__(self):
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *error):
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def waits_are_allowed_again():
    yield
    torch.cuda.set_sync_debug_mode("default")


CUDA_STEPS = dict(
    optim_wrapper=dict(
        optimizer=dict(type="AdamW", lr=0.02), clip_grad=dict(max_norm=5, error_if_nonfinite=True)
    ),
    custom_hooks=[Between(NoWaits(), 2, 10)],
)


@pytest.mark.cuda
@pytest.mark.usefixtures("waits_are_allowed_again")
def test_steps_on_cuda_do_not_synchronise(tmp_path):
    model = TinyModel()
    model.data_preprocessor = BaseDataPreprocessor(non_blocking=True)
    run = tiny_runner(
        tmp_path, model=model, train_cfg=iterations(12), samples=200, **copy.deepcopy(CUDA_STEPS)
    )
    next(hook for hook in run.hooks if isinstance(hook, LoggerHook)).interval = 99
    run.train()
    assert run.iter == 12


@pytest.mark.cuda
@pytest.mark.usefixtures("waits_are_allowed_again")
def test_steps_of_a_toy_trn_on_cuda_do_not_synchronise(tmp_path):
    steps = copy.deepcopy(CUDA_STEPS)
    hooks = [relation_hook(weights=dict(output=0.1, hidden=0.1)), *steps.pop("custom_hooks")]
    run = runner(tmp_path, hooks, batch_size=2, **steps)
    next(hook for hook in run.hooks if isinstance(hook, LoggerHook)).interval = 99
    run.train()
    assert run.iter >= 12
