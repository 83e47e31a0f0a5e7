"""Messages of a run: schedules, changed configs, a second run, SIGTERM."""

import multiprocessing
import os
import signal
import time

import pytest
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop
from processes import forked
from tiny import EPOCHS, StopAt, assert_same_weights, tiny_runner, warnings_of

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.cli import running
from trn_plugin.directions import with_rules
from trn_plugin.engine.loops import EpochLoop
from trn_plugin.engine.work_dir import only_run_in
from trn_plugin.errors import CheckpointError, ConfigError
from trn_plugin.hooks.checkpoint import SafeCheckpointHook

ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=15, val_interval=99)


COSINE = dict(type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True)


def rates(run):
    return run.message_hub.get_scalar("train/lr").data[0].tolist()


@pytest.mark.parametrize(
    ("by_epoch", "by_iteration"),
    [
        (dict(type="CosineAnnealingLR"), dict(T_max=15, end=15)),
        (dict(type="CosineAnnealingLR", convert_to_iter_based=True), dict(T_max=15, end=15)),
        (dict(type="LinearLR", start_factor=0.1, end=2), dict(start_factor=0.1, end=12)),
        (dict(type="MultiStepLR", milestones=[1, 2]), dict(milestones=[6, 12])),
        (dict(type="StepLR", step_size=2), dict(step_size=12)),
        (dict(type="ExponentialLR", gamma=0.5), dict(gamma=0.5 ** (1 / 6))),
    ],
)
def test_an_epoch_based_schedule_in_an_iteration_based_loop(tmp_path, by_epoch, by_iteration):
    own = dict(by_iteration, type=by_epoch["type"], by_epoch=False)
    runs = [
        tiny_runner(tmp_path, name, train_cfg=ITERATIONS, param_scheduler=scheduler)
        for name, scheduler in (("converted", by_epoch), ("own", own))
    ]
    for run in runs:
        run.train()
    assert rates(runs[0]) == pytest.approx(rates(runs[1]))
    assert len(set(rates(runs[0]))) > 1


def test_reduce_on_plateau_needs_an_epoch_based_loop(tmp_path):
    scheduler = dict(type="ReduceOnPlateauLR", monitor="tiny/error", rule="less")
    with pytest.raises(ConfigError, match=r"param_scheduler: ReduceOnPlateauLR .*IterBased"):
        tiny_runner(tmp_path, train_cfg=ITERATIONS, param_scheduler=scheduler).train()


@pytest.mark.parametrize(
    ("monitor", "rule"), [("pose/accuracy", "greater"), ("landmarks/NME", "less"), ("other", None)]
)
def test_a_schedule_that_follows_a_measure_knows_its_direction(monitor, rule):
    config = dict(type="ReduceOnPlateauLR", monitor=monitor)
    assert with_rules([config])[0].get("rule") == rule
    assert with_rules(dict(config, rule="less"))["rule"] == "less"


@pytest.mark.parametrize("kind", [CheckpointHook, "mmengine.hooks.CheckpointHook"])
def test_mmengines_parts_are_replaced_whatever_names_them(tmp_path, kind):
    loop = dict(EPOCHS, type=EpochBasedTrainLoop, max_epochs=1)
    run = tiny_runner(tmp_path, train_cfg=loop, checkpoint=dict(type=kind))
    run.train()
    assert isinstance(run.train_loop, EpochLoop)
    assert any(isinstance(hook, SafeCheckpointHook) for hook in run.hooks)


@pytest.mark.parametrize("choice", ["checkpoint", "config"])
def test_a_longer_resumed_run_warns_that_it_keeps_the_old_schedule(tmp_path, choice):
    options = dict(param_scheduler=COSINE)
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=2), **options).train()
    cfg = dict(resume_schedule=choice)
    rest = tiny_runner(tmp_path, train_cfg=EPOCHS, resume=True, cfg=cfg, **options)
    told = warnings_of(rest)
    rest.train()
    if choice == "checkpoint":
        assert len(told) == 1
        assert "CosineAnnealingLR.T_max (12, not 18)" in told[0]
        assert max(rates(rest)[12:]) < 0.002
    else:
        whole = tiny_runner(tmp_path, "whole", train_cfg=EPOCHS, **options)
        whole.train()
        assert not told
        assert rates(rest)[12:] == pytest.approx(rates(whole)[12:], abs=1e-12)


def test_changed_optimizer_options_are_listed(tmp_path):
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1)).train()
    optim = dict(optimizer=dict(type="Adam", lr=0.5, weight_decay=0.1))
    rest = tiny_runner(tmp_path, train_cfg=EPOCHS, resume=True, optim_wrapper=optim)
    told = warnings_of(rest)
    rest.train()
    assert len(told) == 1
    assert "lr (0.02, not 0.5)" in told[0]
    assert "weight_decay (0, not 0.1)" in told[0]


def test_changed_settings_are_listed_by_key(tmp_path):
    cfg = dict(input_size=32, model=dict(width=8), custom_hooks=[dict(type="A", n=1)], x=1)
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1), cfg=cfg).train()
    cfg = dict(input_size=64, model=dict(width=8), custom_hooks=[dict(type="A", n=2)], x=2)
    rest = tiny_runner(tmp_path, train_cfg=EPOCHS, resume=True, cfg=cfg)
    told = warnings_of(rest)
    rest.train()
    assert len(told) == 1
    assert "input_size (was 32, is 64), " in told[0] + ", "
    assert "custom_hooks.0.n (was 1, is 2)" in told[0]
    assert "width" not in told[0]


def test_an_unchanged_config_gives_no_warning(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tiny_runner(tmp_path, custom_hooks=[StopAt(8)]).train()
    rest = tiny_runner(tmp_path, resume=True)
    told = warnings_of(rest)
    rest.train()
    assert told == []


def hold(folder, held):
    with only_run_in(folder):
        held.set()
        time.sleep(60)


def test_a_second_run_in_a_work_directory_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    forked = multiprocessing.get_context("fork")
    held = forked.Event()
    other = forked.Process(target=hold, args=(tmp_path / "run", held))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(ConfigError, match="another training is running in it"):
            tiny_runner(tmp_path, train_cfg=EPOCHS).train()
    finally:
        other.kill()
        other.join()
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1)).train()


def test_another_optimizer_is_refused(tmp_path):
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1)).train()
    optim = dict(optimizer=dict(type="SGD", lr=0.02))
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth: .*betas.*, which SGD does not have"):
        tiny_runner(tmp_path, train_cfg=EPOCHS, resume=True, optim_wrapper=optim).train()


def test_a_new_run_among_the_checkpoints_of_another_says_so(tmp_path):
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1)).train()
    again = tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1))
    told = warnings_of(again)
    again.train()
    assert len(told) == 1
    assert "epoch_1.pth" in told[0]
    assert "starts anew" in told[0]


class Asks(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 9:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("save", [False, True])
def test_sigterm_is_one_line_and_status_143(tmp_path, save):
    def main():
        tiny_runner(tmp_path, custom_hooks=[Asks()], cfg=dict(save_on_sigterm=save)).train()

    done = forked(lambda: running.run(main))
    assert done.returncode == 143, done.stderr
    last = "iter_9.pth" if save else "epoch_1.pth"
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("terminated: the last checkpoint is ")
    assert last in line
    assert load_checkpoint_file(tmp_path / "run" / last)["meta"]["iter"] == (9 if save else 6)
    if save:
        rest = tiny_runner(tmp_path, resume=True)
        rest.train()
        whole = tiny_runner(tmp_path, "whole")
        whole.train()
        assert_same_weights(whole, rest)


def test_an_interrupt_is_one_line_and_status_130(capsys):
    def main():
        raise KeyboardInterrupt("the last checkpoint is epoch_1.pth")

    with pytest.raises(SystemExit) as stop:
        running.run(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted: the last checkpoint is epoch_1.pth\n"
