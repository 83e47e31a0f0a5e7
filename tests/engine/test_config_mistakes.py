"""Mistakes in a config are one line that names the key."""

import sys

import pytest
from mmengine.config import Config
from tiny import EPOCHS, tiny_runner

from trn_plugin import cli
from trn_plugin.cli.config import work_dir as folder_of
from trn_plugin.config_checks import check_sections
from trn_plugin.errors import ConfigError
from trn_plugin.registry import MODELS

ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=15, val_interval=99)
NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
BEST = dict(type="CheckpointHook", save_best="tiny/error", rule="less")
TOY = "trn_plugin::toy/mtl_test-resnet_toy.py"
CONFIG = """
data = dict(data_root="here", train_size=8)
size = 8
model = dict(type="Model")
train_dataloader = dict(batch_size=size, dataset=dict(type="Data", **data))
"""


def saves(**options):
    return dict(checkpoint=dict(type="CheckpointHook", **options))


def clips(**options):
    return dict(optim=dict(clip_grad=options))


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
        *[("optim_wrapper", {key: 5}) for key in ("paramwise_cfg", "optimizer")],
        ("optim_wrapper", dict(optimizer=dict(lr="fast"))),
        ("param_scheduler", [dict(type="LinearLR", start_factor=0)]),
        ("model", dict(heads=5)),
        ("model", dict(neck=dict(relations=5))),
        ("model", dict(backbone=dict(drop_rate="x"))),
        ("train_dataloader", dict(dataset=dict(pipeline=5))),
    ],
)
def test_a_section_of_the_wrong_type_is_named_by_its_key(key, value):
    with pytest.raises(ConfigError, match=rf"^{key}.*: expected "):
        check_sections(Config({key: value}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(train_cfg=dict(EPOCHS, val_interval=0)), "train_cfg.val_interval: expected at least"),
        (dict(train_cfg=dict(EPOCHS, max_epochs=1.5)), "train_cfg.max_epochs: expected a whole"),
        (dict(train_cfg=dict(EPOCHS, by_epoch=True)), "train_cfg: .*by_epoch"),
        (dict(custom_hooks=[dict(type="EMAHok")]), "custom_hooks.0: EMAHok is not in"),
        (dict(param_scheduler=dict(type="StepLR")), "param_scheduler: .*step_size"),
        (saves(interval="a"), "checkpoint.interval: expected a whole number"),
        (saves(by_epoch=1), "checkpoint.by_epoch: expected"),
        (saves(filename_tmpl=1), "filename_tmpl: expected"),
        (saves(foo=1), "checkpoint: no option .* 'foo'"),
        (saves(save_best=3), "default_hooks.checkpoint"),
        (dict(NO_VALIDATION, checkpoint=BEST), "checkpoint.save_best: expected a run that validat"),
        (clips(max_norm="x"), "clip_grad: {'max_norm': 'x'}"),
        (clips(type="value", clip_value="x"), "clip_grad: .*clip_value"),
        (clips(max_nrm=1), "clip_grad: .*max_norm"),
        (dict(cfg=dict(compile=dict(bananas=1))), "compile: .*bananas"),
        (dict(val_dataloader=dict(batch_size=0)), "^val_dataloader: "),
        (dict(val_evaluator=dict(type="Acuracy")), "^val_evaluator: Acuracy is not in"),
        (dict(train_cfg=ITERATIONS, log_processor=dict(by_epoch=True)), "by_epoch: expected False"),
    ],
)
def test_a_mistake_is_a_one_line_error_before_the_first_step(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        tiny_runner(tmp_path, **options).train()


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("val_cfg", r"^val_cfg: missing, but val_dataloader and val_evaluator are set"),
        ("optim_wrapper", r"^optim_wrapper: missing, but train_dataloader and train_cfg are set"),
    ],
)
def test_an_incomplete_group_of_sections_is_refused(left_out, message):
    config = cli.load_config(TOY, {left_out: None})
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
    config = cli.load_config(TOY, options)
    with pytest.raises(ConfigError, match=message):
        MODELS.build(config.model)


KEYS = {"heads.a": dict(lr_mult=2.0), "haeds.b": dict(lr_mult=2.0)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(optim=dict(paramwise_cfg=dict(custom_keys=KEYS))),
            "custom_keys: no parameter's name contains haeds.b\n",
        ),
        (dict(cfg=dict(model_wrapper_cfg=dict())), "model_wrapper_cfg: no effect in a run of one"),
    ],
)
def test_settings_without_effect_are_warned_of(tmp_path, capsys, options, message):
    tiny_runner(tmp_path, train_cfg=dict(EPOCHS, max_epochs=1), **options).train()
    assert message in capsys.readouterr().out


def test_custom_imports_given_as_an_option_are_imported(tmp_path, monkeypatch):
    (tmp_path / "imported_by_an_option.py").touch()
    monkeypatch.chdir(tmp_path)
    cli.load_config(TOY, {"custom_imports.imports": ["imported_by_an_option"]})
    assert "imported_by_an_option" in sys.modules
    with pytest.raises(ConfigError, match=r"^custom_imports: .*no_such_module"):
        cli.load_config(TOY, {"custom_imports.imports": ["no_such_module"]})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("data.data_root", "set train_dataloader.dataset.data_root"),
        ("data.train_size", "set train_dataloader.dataset.train_size"),
        ("data.test_size", "nothing reads 'data'"),
        ("size", "nothing reads 'size'"),
        ("batch_size", "set train_dataloader.batch_size"),
        ("dat.root", "nothing reads 'dat'"),  # 'data' is not read either
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
def test_a_file_that_is_no_config_is_a_one_line_error(tmp_path, text, options, message):
    path = tmp_path / "config.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        cli.load_config(path if text else Config(dict(model={})), options)


def test_an_option_that_does_not_fit_is_told_by_its_key():
    options = {"train_cfg.max_epochs": 1, "custom_hooks.3.weights.output": 1}
    with pytest.raises(ConfigError, match=r"--cfg-options custom_hooks\.3\.weights\.output: .*"):
        cli.load_config(TOY, options)


def test_the_size_of_one_data_set_is_not_ignored():
    with pytest.raises(ConfigError, match=r"48.*input_size is 64: set input_size alone"):
        cli.load_config(TOY, {"train_dataloader.dataset.input_size": 48})


def test_paths_may_be_path_objects(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    config = cli.load_config(path, {"train_dataloader.batch_size": 4})
    assert config.train_dataloader.batch_size == 4
    assert folder_of(config, None, path) == "work_dirs/config"
    assert folder_of(config, tmp_path, path) == str(tmp_path)
