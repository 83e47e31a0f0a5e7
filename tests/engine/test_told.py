"""What a run says of a config that it does not follow, or cannot."""

import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from processes import forked
from tiny import SquaredError, StopAt, TinyModel, tiny_runner

from trn_plugin import cli
from trn_plugin.checkpoints import FORMAT, load_checkpoint_file, save_checkpoint_file
from trn_plugin.cli import running
from trn_plugin.cli.config import work_dir as folder_of
from trn_plugin.config_checks import check_sections
from trn_plugin.engine.work_dir import only_run_in
from trn_plugin.errors import CheckpointError, ConfigError, TrainingError
from trn_plugin.registry import MODELS

ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=15, val_interval=99)
EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=3, val_interval=1)


def rates(run):
    return run.message_hub.get_scalar("train/lr").data[0].tolist()


def warnings_of(run):
    told = []
    run.logger.warning = told.append
    return told


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
def test_a_schedule_by_epochs_follows_a_loop_by_iterations(tmp_path, by_epoch, by_iteration):
    own = dict(by_iteration, type=by_epoch["type"], by_epoch=False)
    runs = [
        tiny_runner(tmp_path, name, train_cfg=ITERATIONS, param_scheduler=scheduler)
        for name, scheduler in (("converted", by_epoch), ("own", own))
    ]
    for run in runs:
        run.train()
    assert rates(runs[0]) == pytest.approx(rates(runs[1]))
    assert len(set(rates(runs[0]))) > 1


def test_a_schedule_that_follows_validations_needs_epochs(tmp_path):
    scheduler = dict(type="ReduceOnPlateauLR", monitor="tiny/error", rule="less")
    with pytest.raises(ConfigError, match=r"param_scheduler: ReduceOnPlateauLR .*IterBased"):
        tiny_runner(tmp_path, train_cfg=ITERATIONS, param_scheduler=scheduler).train()


def test_checkpoints_by_epochs_in_a_loop_by_iterations(tmp_path):
    checkpoint = dict(type="CheckpointHook", interval=1, max_keep_ckpts=5)
    tiny_runner(tmp_path, train_cfg=ITERATIONS, checkpoint=checkpoint).train()
    found = sorted(path.name for path in (tmp_path / "run").glob("*.pth"))
    assert found == ["iter_12.pth", "iter_15.pth", "iter_6.pth"]


COSINE = dict(type="CosineAnnealingLR", by_epoch=True, convert_to_iter_based=True)


@pytest.mark.parametrize("choice", ["checkpoint", "config"])
def test_a_longer_run_says_that_its_schedule_is_the_old_one(tmp_path, choice):
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


def test_other_options_of_the_optimizer_are_told(tmp_path):
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1)).train()
    optim = dict(optimizer=dict(type="Adam", lr=0.5, weight_decay=0.1))
    rest = tiny_runner(tmp_path, train_cfg=EPOCHS, resume=True, optim_wrapper=optim)
    told = warnings_of(rest)
    rest.train()
    assert len(told) == 1
    assert "lr (0.02, not 0.5)" in told[0]
    assert "weight_decay (0, not 0.1)" in told[0]


def test_other_settings_are_told_by_their_key(tmp_path):
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


def test_an_unchanged_run_is_told_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tiny_runner(tmp_path, custom_hooks=[StopAt(8)]).train()
    rest = tiny_runner(tmp_path, resume=True)
    told = warnings_of(rest)
    rest.train()
    assert told == []


class Directed(SquaredError):
    default_prefix = "tiny"
    directions = {"error": "less"}


def test_the_first_measure_with_a_direction_is_the_best_ones(tmp_path, monkeypatch):
    from trn_plugin.registry import METRICS

    monkeypatch.setitem(METRICS.module_dict, "Directed", Directed)
    checkpoint = dict(type="CheckpointHook", interval=1, save_best="auto")
    run = tiny_runner(tmp_path, checkpoint=checkpoint, train_cfg=EPOCHS)
    run.train()
    (best,) = (tmp_path / "run").glob("best_tiny_error_*.pth")
    errors = run.message_hub.get_scalar("val/tiny/error").data[0]
    assert load_checkpoint_file(best)["meta"]["epoch"] == 1 + errors.argmin()


def test_without_any_direction_auto_is_refused(tmp_path):
    checkpoint = dict(type="CheckpointHook", interval=1, save_best="auto")
    with pytest.raises(ConfigError, match=r"save_best: 'auto' needs a measure .* found tiny/error"):
        tiny_runner(tmp_path, checkpoint=checkpoint, train_cfg=EPOCHS).train()


@pytest.mark.parametrize("strict", [False, True])
def test_a_misspelt_monitor_is_refused(tmp_path, strict):
    hook = dict(type="EarlyStoppingHook", monitor="tiny/erorr", rule="less", strict=strict)
    with pytest.raises(ConfigError, match=r"monitor: expected one of tiny/error, .*'tiny/erorr'"):
        tiny_runner(tmp_path, custom_hooks=[hook], train_cfg=EPOCHS).train()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("body.1.running_var", "statistics"), ("body.1.running_mean", "statistics"), ("", "moment")],
)
def test_what_could_not_be_loaded_again_is_not_saved(tmp_path, path, kind):
    run = tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1))
    run.train()
    before = (tmp_path / "run" / "epoch_1.pth").read_bytes()
    state = next(iter(run.optim_wrapper.optimizer.state.values()))
    spoilt = run.model.state_dict()[path] if path else state["exp_avg"]
    spoilt.view(-1)[0] = float("inf")
    with pytest.raises(TrainingError, match=path or "the optimizer's exp_avg is not finite"):
        run.save_checkpoint(str(tmp_path / "run"), "epoch_1.pth")
    assert (tmp_path / "run" / "epoch_1.pth").read_bytes() == before


def test_masks_may_hold_infinities(tmp_path):
    model = TinyModel()
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    tiny_runner(tmp_path, model=model, train_cfg=dict(EPOCHS, max_epochs=1)).train()
    model = TinyModel()
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    run = tiny_runner(tmp_path, model=model, train_cfg=EPOCHS, resume=True)
    run.train()
    assert run.epoch == 3


def spoil(path, change):
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)


UNUSABLE = {
    "NaN weights": lambda c: c["state_dict"]["body.0.weight"].fill_(float("nan")),
    "sparse": lambda c: c["state_dict"].update({"body.0.bias": torch.ones(8).to_sparse()}),
    "float8": lambda c: c["state_dict"].update(
        {"body.0.bias": torch.ones(8).to(torch.float8_e4m3fn)}
    ),
    "complex": lambda c: c["state_dict"].update({"body.0.bias": torch.ones(8) * 1j}),
    "negative variance": lambda c: c["state_dict"]["body.1.running_var"].fill_(-1),
    "NaN moments": lambda c: c["optimizer"]["state"][0]["exp_avg"].fill_(float("nan")),
    "other optimizer": lambda c: c["optimizer"].update(param_groups=[]),
    "no schedules": lambda c: c.update(param_schedulers=[]),
    "no generators": lambda c: c["ranks"][0].update(random={}),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_resuming_falls_back_past_what_cannot_be_used(tmp_path, kind):
    whole = tiny_runner(tmp_path, train_cfg=EPOCHS)
    whole.train()
    spoil(tmp_path / "run" / "epoch_3.pth", UNUSABLE[kind])
    rest = tiny_runner(tmp_path, train_cfg=EPOCHS, resume=True)
    told = warnings_of(rest)
    rest.train()
    assert [text for text in told if "not resumed from" in text and "epoch_3.pth" in text]
    assert rest.train_dataloader.dataset.read  # it went on from epoch_2.pth
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[key]), key


@pytest.mark.parametrize("resume", [False, True])
def test_a_newer_checkpoint_is_never_written_over(tmp_path, resume):
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=2)).train()
    path = tmp_path / "run" / "epoch_2.pth"
    spoil(path, lambda c: c["meta"].update(trn_plugin_format=FORMAT + 1))
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"epoch_2\.pth: written by a newer version"):
        tiny_runner(tmp_path, train_cfg=EPOCHS, resume=resume).train()
    with pytest.raises(CheckpointError, match="not overwritten"):
        save_checkpoint_file(dict(state_dict={}, meta={}), path)
    assert path.read_bytes() == before


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
        with pytest.raises(ConfigError, match=f"another training .*process {other.pid}"):
            tiny_runner(tmp_path, train_cfg=EPOCHS).train()
    finally:
        other.kill()
        other.join()
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1)).train()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, 5) for key in ("train_dataloader", "compile", "load_from", "default_hooks")],
        *[
            (key, "abc")
            for key in ("model", "optim_wrapper", "train_cfg", "custom_hooks", "resume")
        ],
        ("custom_hooks", ["EMAHook"]),
        ("val_dataloader", dict(dataset=3)),
        ("save_on_sigterm", "yes"),
        ("resume_schedule", "stretch"),
        ("non_finite", ["skip"]),
        ("param_scheduler", dict(type="CosineAnnealingLR", eta_min="x")),
        ("param_scheduler", [dict(type="LinearLR", begin=[1])]),
        ("strategy", dict(type="FSDPStrategy")),
        ("strategy", dict(type="DeepSpeedStrategy")),
        ("model_wrapper_cfg", dict(type="MMFullyShardedDataParallel")),
        ("sync_bn", True),
        ("custom_imports", "x"),
        *[("randomness", {key: "yes"}) for key in ("deterministic", "diff_rank_seed")],
        ("env_cfg", dict(cudnn_benchmrk=True)),
        ("log_processor", dict(by_epoch="no")),
        ("optim_wrapper", dict(paramwise_cfg=dict(norm_decay=0))),
    ],
)
def test_a_section_of_another_type_is_told_by_its_key(key, value):
    with pytest.raises(ConfigError, match=rf"^{key}.*: expected "):
        check_sections(Config({key: value}))


NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
BEST = dict(type="CheckpointHook", save_best="tiny/error", rule="less")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(train_cfg=dict(EPOCHS, val_interval=0)), "train_cfg.val_interval: expected at least"),
        (dict(train_cfg=dict(EPOCHS, max_epochs=1.5)), "train_cfg.max_epochs: expected a whole"),
        (dict(train_cfg=dict(EPOCHS, by_epoch=True)), "train_cfg: .*by_epoch"),
        (dict(custom_hooks=[dict(type="EMAHok")]), "custom_hooks.0: EMAHok is not in"),
        (dict(param_scheduler=dict(type="StepLR")), "param_scheduler: .*step_size"),
        (dict(checkpoint=dict(type="CheckpointHook", interval="a")), "checkpoint.interval: exp"),
        (dict(checkpoint=dict(type="CheckpointHook", by_epoch=1)), "checkpoint.by_epoch: expected"),
        (dict(checkpoint=dict(type="CheckpointHook", filename_tmpl=1)), "filename_tmpl: expected"),
        (dict(checkpoint=dict(type="CheckpointHook", foo=1)), "checkpoint: no option .* 'foo'"),
        (dict(checkpoint=dict(type="CheckpointHook", save_best=3)), "default_hooks.checkpoint"),
        (dict(NO_VALIDATION, checkpoint=BEST), "checkpoint.save_best: expected a run that validat"),
        (dict(optim=dict(clip_grad=dict(max_norm="x"))), "clip_grad: {'max_norm': 'x'}"),
        (dict(optim=dict(clip_grad=dict(max_norm=None))), "clip_grad: {'max_norm': None}"),
        (dict(optim=dict(clip_grad=dict(type="value", clip_value="x"))), "clip_grad: .*clip_value"),
        (dict(optim=dict(clip_grad=dict(max_nrm=1))), "clip_grad: .*max_norm"),
        (dict(cfg=dict(compile=dict(bananas=1))), "compile: .*bananas"),
        (dict(cfg=dict(resume_schedule="stretch")), "resume_schedule: expected 'checkpoint' or"),
        (dict(val_dataloader=dict(batch_size=0)), "^val_dataloader: "),
        (dict(val_evaluator=dict(type="Acuracy")), "^val_evaluator: Acuracy is not in"),
        (dict(train_cfg=ITERATIONS, log_processor=dict(by_epoch=True)), "by_epoch: expected False"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_step(tmp_path, options, message):
    if "resume_schedule" in options.get("cfg", {}):
        tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1)).train()
        options = dict(options, resume=True)
    with pytest.raises(ConfigError, match=message):
        tiny_runner(tmp_path, **options).train()


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("val_cfg", r"^val_cfg: expected with val_dataloader and val_evaluator, found none"),
        ("optim_wrapper", r"^optim_wrapper: expected with train_dataloader and train_cfg"),
    ],
)
def test_a_section_without_its_others_is_told(left_out, message):
    config = cli.load_config("trn_plugin::toy/mtl_test-resnet_toy.py", {left_out: None})
    with pytest.raises(ConfigError, match=message):
        cli.build_runner(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model.heads.pose.type": "Clasification"},
            r"^model\.heads\.pose: Clasification is not in",
        ),
        ({"model.heads.pose.num_clases": 5}, r"^model\.heads\.pose: .*num_clases"),
        ({"model.neck.momentun": 0.9}, r"^model\.neck: .*momentun"),
        ({"model.data_preprocessor": dict(type="Banana")}, r"^model\.data_preprocessor: Banana"),
        ({"model.data_preprocessor.meen": 1}, r"^model\.data_preprocessor: .*meen"),
    ],
)
def test_a_mistake_in_a_part_of_the_model_names_the_part(options, message):
    config = cli.load_config("trn_plugin::toy/mtl_test-resnet_toy.py", options)
    with pytest.raises(ConfigError, match=message):
        MODELS.build(config.model)


def test_keys_of_no_parameter_are_told(tmp_path, capsys):
    keys = {"heads.a": dict(lr_mult=2.0), "haeds.b": dict(lr_mult=2.0)}
    optim = dict(optimizer=dict(type="Adam", lr=0.02), paramwise_cfg=dict(custom_keys=keys))
    tiny_runner(tmp_path, optim_wrapper=optim, train_cfg=dict(EPOCHS, max_epochs=1)).train()
    assert "custom_keys: no parameter's name contains haeds.b" in capsys.readouterr().out


def test_imports_of_an_option_are_made(tmp_path, monkeypatch):
    (tmp_path / "imported_by_an_option.py").touch()
    monkeypatch.chdir(tmp_path)
    toy = "trn_plugin::toy/mtl_test-resnet_toy.py"
    cli.load_config(toy, {"custom_imports.imports": ["imported_by_an_option"]})
    assert "imported_by_an_option" in sys.modules
    with pytest.raises(ConfigError, match=r"^custom_imports: .*no_such_module"):
        cli.load_config(toy, {"custom_imports.imports": ["no_such_module"]})


CONFIG = """
data = dict(data_root="here", train_size=8)
size = 8
model = dict(type="Model")
train_dataloader = dict(batch_size=size, dataset=dict(type="Data", **data))
"""


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("data.data_root", "set train_dataloader.dataset.data_root"),
        ("data.train_size", "set train_dataloader.dataset.train_size"),
        ("data.test_size", "nothing reads 'data'"),
        ("size", "nothing reads 'size'"),
        ("bananas", "nothing reads 'bananas'"),
    ],
)
def test_an_option_that_nothing_reads_names_the_key_to_set(tmp_path, key, hint):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    with pytest.raises(ConfigError, match=rf"--cfg-options {key}: .*{hint}"):
        cli.load_config(str(path), {key: "there"})
    path.write_text(CONFIG + "custom_imports = dict(imports=[])")
    if key == "bananas":  # a user's own code may read it
        assert cli.load_config(str(path), {key: "there"}).bananas == "there"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, None, r"^config: expected the path of a file, found Config"),
        ("raise SystemExit(3)", None, r"config\.py: not a usable config: it ends the program"),
        (
            "custom_imports = dict(imports=['no_x'])",
            None,
            r"custom .*no_x.*: No module named 'no_x",
        ),
        ("_base_ = 'trn_plugin::absent.py'", None, r"^trn_plugin::absent\.py: no such config file"),
        ("_base_ = 'trn_plugin::toy/absent.py'", None, r"^trn_plugin::toy/absent\.py: no such"),
        ("# trn_plugin::absent.py\n_base_ = './absent.py'", None, r"config\.py: .*/absent\.py"),
    ],
)
def test_what_is_no_config_is_one_line(tmp_path, text, options, message):
    path = tmp_path / "config.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        cli.load_config(path if text else Config(dict(model={})), options)


def test_paths_may_be_path_objects(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    config = cli.load_config(path, {"train_dataloader.batch_size": 4})
    assert config.train_dataloader.batch_size == 4
    assert folder_of(config, None, path) == "work_dirs/config"
    assert folder_of(config, tmp_path, path) == str(tmp_path)


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
        for key, value in whole.model.state_dict().items():
            assert torch.equal(value, rest.model.state_dict()[key]), key


def test_an_interrupt_is_one_line_and_status_130(capsys):
    def main():
        raise KeyboardInterrupt("the last checkpoint is epoch_1.pth")

    with pytest.raises(SystemExit) as stop:
        running.run(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted: the last checkpoint is epoch_1.pth\n"
