"""Non-finite losses and gradients stop a run, or their steps are skipped with a warning."""

import re

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from tiny import TinyModel, assert_same, result_of, tiny_runner

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.errors import TrainingError

NAN, INF = float("nan"), float("inf")


class Spoiled(TinyModel):
    """Applies ``change`` to the batches of these iterations, counted from 1."""

    def __init__(self, iterations, change):
        super().__init__()
        self.iterations, self.change, self.count = set(iterations), change, 0

    def spoil(self, x, y):
        self.count += 1
        return self.change(x, y) if self.count in self.iterations else (x, y)


def label_of_b(value):
    return lambda x, y: (x, y.index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(value)))


def picture(value):
    return lambda x, y: (x.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(value)), y)


def spoiled(folder, iterations, change, **options):
    torch.manual_seed(0)
    return tiny_runner(folder, model=Spoiled(iterations, change), **options)


@pytest.mark.parametrize("clip", [None, dict(max_norm=5.0, error_if_nonfinite=True)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (label_of_b(NAN), r"loss_b is nan"),
        (label_of_b(INF), r"loss_b is inf"),
        (picture(NAN), r"loss_a is nan and loss_b is nan"),
    ],
)
def test_a_loss_stops_the_run_and_is_named(tmp_path, clip, change, message):
    run = spoiled(tmp_path, [9], change, optim=dict(clip_grad=clip) if clip else {})
    with pytest.raises(TrainingError, match=rf"iteration 9: {message}; the last .*epoch_1\.pth"):
        run.train()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    saved = load_checkpoint_file(tmp_path / "run" / "epoch_1.pth")["state_dict"]
    assert all(torch.isfinite(v).all() for v in saved.values())


def test_a_relation_loss_is_named_with_its_level(tmp_path):
    class Related(TinyModel):
        def forward(self, x, y, mode="tensor"):
            found = super().forward(x, y, mode)
            if mode == "loss":
                found["loss_relation_hidden"] = found["loss_a"] * NAN
            return found

    with pytest.raises(TrainingError, match=r"iteration 1: loss_relation_hidden is"):
        tiny_runner(tmp_path, model=Related()).train()


class Root(TinyModel):
    """In one step, the loss of b is finite but its gradient is not."""

    def __init__(self, step=1):
        super().__init__()
        self.left = step

    def forward(self, x, y, mode="tensor"):
        found = super().forward(x, y, mode)
        self.left -= mode == "loss"
        if mode == "loss" and self.left == 0:
            found["loss_b"] = found["loss_b"] + (self.heads["b"].bias * 0).abs().sqrt().sum()
        return found


@pytest.mark.parametrize("clip", [None, dict(max_norm=5.0), dict(max_norm=5, norm_type=1)])
def test_a_gradient_stops_the_run_and_its_task_is_named(tmp_path, clip):
    run = tiny_runner(tmp_path, model=Root(), optim=dict(clip_grad=clip) if clip else {})
    with pytest.raises(TrainingError) as caught:
        run.train()
    assert "iteration 1: the gradient of " in str(caught.value)
    assert "no checkpoint has been written yet" in str(caught.value)
    if clip is None:
        assert "heads.b.bias is not finite" in str(caught.value)
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


@pytest.mark.parametrize("change", [label_of_b(NAN), picture(INF)])
@pytest.mark.parametrize("clip", [None, dict(max_norm=5.0, error_if_nonfinite=True)])
def test_a_skipped_step_changes_nothing_and_is_counted(tmp_path, change, clip, capsys):
    optim = dict(clip_grad=clip) if clip else {}
    run = spoiled(tmp_path, [3, 9], change, cfg=dict(non_finite="skip"), optim=optim)
    before = {}
    step = run.model.train_step

    def watched(data, optim_wrapper):
        before[run.iter + 1] = {k: v.clone() for k, v in run.model.state_dict().items()}
        return step(data, optim_wrapper)

    run.model.train_step = watched
    run.train()
    for iteration in (3, 9):
        for key, value in before[iteration].items():
            assert torch.equal(value, before[iteration + 1][key]), key
    assert not torch.equal(before[4]["heads.a.weight"], before[5]["heads.a.weight"])
    steps = {int(v["step"]) for v in run.optim_wrapper.state_dict()["state"].values()}
    assert steps == {16}  # of 18 iterations
    skipped = run.message_hub.get_scalar("train/skipped_steps").data[0].tolist()
    assert [i for i, v in enumerate(skipped, 1) if v] == [3, 9]
    lines = [line for line in capsys.readouterr().out.splitlines() if "was skipped" in line]
    assert len(lines) == 2
    assert re.search(r"iteration 9: loss_.* the step was skipped \(2 of 9", lines[1])
    for name, buffer in run.message_hub.log_scalars.items():
        assert torch.isfinite(torch.as_tensor(buffer.data[0])).all(), name


def test_skip_changes_nothing_in_a_finite_run(tmp_path):
    results = []
    for action in ("stop", "skip"):
        run = tiny_runner(tmp_path, action, cfg=dict(non_finite=action))
        run.train()
        results.append(result_of(run))
    del results[1]["train/skipped_steps"]
    assert_same(*results)


def test_accumulated_gradients_of_a_bad_batch_are_dropped(tmp_path):
    run = spoiled(
        tmp_path,
        [4],
        label_of_b(NAN),
        cfg=dict(non_finite="skip"),
        optim=dict(accumulative_counts=3),
    )
    run.train()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert {int(v["step"]) for v in run.optim_wrapper.state_dict()["state"].values()} == {5}


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path, monkeypatch):
    from trn_plugin.engine import finite

    monkeypatch.setattr(finite, "MOST_SKIPPED", 5)
    run = spoiled(tmp_path, range(2, 99), label_of_b(NAN), cfg=dict(non_finite="skip"))
    with pytest.raises(TrainingError, match=r"iteration 7: .* the 5 steps before were skipped too"):
        run.train()


@OPTIM_WRAPPERS.register_module()
class ScaledOptimWrapper(OptimWrapper):
    """MMEngine's AmpOptimWrapper with torch's gradient scaler for CPUs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10**6)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_a_gradient_scaler_still_skips_and_lowers_its_scale(tmp_path, action):
    """Overflows caused by the loss scale are left to the scaler, and counted."""
    optim = dict(type="ScaledOptimWrapper")
    run = tiny_runner(tmp_path, cfg=dict(non_finite=action), optim=optim)
    run.train()
    skipped = run.message_hub.get_scalar("train/skipped_steps").data[0].tolist()
    assert 0 < sum(skipped) < 18
    assert run.optim_wrapper.loss_scaler.get_scale() == 2.0 ** (127 - sum(skipped))
    steps = {int(v["step"]) for v in run.optim_wrapper.state_dict()["state"].values()}
    assert steps == {18 - int(sum(skipped))}


def test_a_loss_stops_a_run_with_a_gradient_scaler_too(tmp_path):
    run = spoiled(tmp_path, [9], label_of_b(NAN), optim=dict(type="ScaledOptimWrapper"))
    with pytest.raises(TrainingError, match="iteration 9: loss_b is nan"):
        run.train()
