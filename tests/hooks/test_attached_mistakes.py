"""The relation loss on other models: errors in the config, the model and the data."""

import pytest
import torch
from foreign_model import (
    FEATURES,
    LABELS,
    WEIGHTS,
    SomeoneElsesModel,
    attached,
    covariances,
    hook,
    runner,
)
from test_relation_loss import history
from torch import nn

from trn_plugin.errors import ConfigError, TrainingError
from trn_plugin.hooks import TaskRelationLossHook
from trn_plugin.models import TaskRelationNeck


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(features=None), r"hook\.labels: also needs features"),
        (dict(labels=None), r"hook\.features: also needs labels"),
        (dict(features={}), r"features: expected a non-empty dict"),
        (dict(relations=[]), r"relations: expected at least one pair"),
        (dict(relations=[("depth", "depth")]), r"relations: expected two different"),
        (dict(momentum=1.0), r"Hook\.momentum: expected a number in \[0, 1\), found 1\.0"),
        (dict(weights=dict(output=1.0)), r"'output' is not measured; .*features are \('hidden',\)"),
        (dict(labels=dict(depth="a")), r"labels: expected the tasks .*depth, seg, found depth"),
        (
            dict(labels=LABELS | dict(pose="gt")),
            r"labels: expected the tasks of relations, depth, seg, found depth, seg, pose",
        ),
        (dict(labels=LABELS | dict(depth=3)), r"labels\.depth: expected a path or dict\(path"),
        (dict(labels=LABELS | dict(depth="a..b")), r"names joined by dots, found 'a\.\.b'"),
        (
            dict(labels=LABELS | dict(seg=dict(path="a", num_classes=1))),
            r"labels\.seg\.num_classes: expected a number of at least 2, found 1",
        ),
        (
            dict(features=dict(hidden=dict(depth="a"))),
            r"hidden: .*depth, seg, found depth",
        ),
        (
            dict(features=dict(hidden=FEATURES["hidden"] | dict(seg=dict(path="a", pool=1)))),
            r"features\.hidden\.seg: expected a module name or dict\(path=..., dim=",
        ),
        (dict(features={"hidden_loss": FEATURES["hidden"]}), r"'hidden_loss' cannot be a name"),
        (dict(features={"a.b": FEATURES["hidden"]}), r"'a\.b' cannot be a level"),
        (dict(features={"label": FEATURES["hidden"]}), r"'label' cannot be a level"),
    ],
)
def test_errors_in_the_config(change, message):
    options = {k: v for k, v in hook(**change).items() if k != "type"}
    with pytest.raises(ConfigError, match=f"(?i){message}") as raised:
        TaskRelationLossHook(**options)
    assert "\n" not in str(raised.value)


def at(depth="depth_head.conv1", seg="seg_head.fc"):
    return dict(features=dict(hidden=dict(depth=depth, seg=seg)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("depth_head.conv"), r"no module 'depth_head\.conv'; perhaps .*depth_head\.conv1"),
        (at("zzz"), r"no module 'zzz'; perhaps data_preprocessor, stem, depth_head"),
        (at("seg_head.fc"), r"depth-seg relates the features of 'seg_head\.fc' to themselves"),
        (at("unused"), r"hidden\.depth: 'unused' was not called in a training step"),
        (
            at(dict(path="stem", dim=4)),
            r"hidden\.depth: 'stem' gives \(16, 6, 6, 6\) without a dimension 4",
        ),
        (
            dict(labels=LABELS | dict(depth="gt_dept.value")),
            r"labels\.depth: no sample of the first batch has a label at 'gt_dept\.value': "
            r"data_sample \(BaseDataElement\) has gt_depth, gt_label",
        ),
        (
            dict(labels=LABELS | dict(depth="gt_depth.values")),
            r"data_sample\.gt_depth \(BaseDataElement\) has value$",
        ),
        (
            dict(labels=LABELS | dict(seg="gt_label.label")),
            r"labels\.seg: 'gt_label\.label' is a whole number; for a class index give dict",
        ),
        (
            dict(labels=LABELS | dict(seg=dict(path="gt_label.label", num_classes=2))),
            r"labels\.seg: 'gt_label\.label' gives the class index 2, expected 0 to 1",
        ),
        (
            dict(labels=LABELS | dict(depth=dict(path="gt_depth.value", num_classes=2))),
            r"labels\.depth: expected one class index in each sample, .* found 2 numbers of",
        ),
        (
            dict(labels=LABELS | dict(depth="gt_depth")),
            r"'gt_depth' leads to a BaseDataElement with value, expected numbers",
        ),
        (dict(data_samples="samples"), r"no argument 'samples'; its arguments are inputs, data_s"),
    ],
)
def test_errors_in_training(tmp_path, change, message):
    run = runner(tmp_path, [hook(**change)])
    with pytest.raises(ConfigError, match=message) as raised:
        run.train()
    assert "\n" not in str(raised.value)


class Odd(SomeoneElsesModel):
    """Has a further module ``odd``; ``make`` calls it and may change the losses."""

    def __init__(self, make):
        super().__init__()
        self.odd = nn.Identity()
        self.make = make

    def forward(self, inputs, data_samples=None, mode="tensor"):
        losses = super().forward(inputs, data_samples, mode)
        made = self.make(self.odd, torch.stack(list(inputs)), losses)
        return losses if made is None else made


def calls(*arguments):
    """A ``make`` that calls ``odd`` with each function of the pictures (16, 1, 8, 8)."""

    def make(odd, x, losses):
        for argument in arguments:
            odd(argument(x))

    return make


def the_same(x):
    return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (calls(the_same, the_same), r"depth: 'odd' was called 2 times in a .* expected one call"),
        (calls(lambda x: (x, x)), r"'odd' gives a tuple of 2, expected one tensor \(N, d\), "),
        (calls(lambda x: x.long()), r"gives \(16, 1, 8, 8\) of torch\.int64, expected one"),
        (calls(lambda x: x[:, 0, 0, 0]), r"'odd' gives \(16,\) of torch\.float64, expected one"),
        (calls(lambda x: x[:, :, :0]), r"'odd' gives \(16, 1, 0, 8\) of torch\.float64, exp"),
        (
            calls(lambda x: x[:5]),
            r"'odd' gives 5 rows of features, expected one for each of 16",
        ),
        (lambda odd, x, losses: odd(x), r"forward returned a Tensor in mode 'loss', expected a d"),
        (
            lambda odd, x, losses: losses | {"loss_relation_hidden": odd(x).mean()},
            r"own losses have loss_relation_hidden",
        ),
    ],
)
def test_models_that_do_not_fit(tmp_path, make, message):
    run = runner(tmp_path, [hook(**at("odd"))], model=Odd(make))
    with pytest.raises(ConfigError, match=message) as raised:
        run.train()
    assert "\n" not in str(raised.value)


def test_features_without_any_gradient(tmp_path):
    model = SomeoneElsesModel()
    for module in (model.stem, model.depth_head.conv1, model.seg_head.fc):
        module.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"features\.hidden: no gradient flows through any of"):
        runner(tmp_path, [hook()], model=model).train()


def test_a_train_step_that_bypasses_forward(tmp_path):
    class Model(SomeoneElsesModel):
        def train_step(self, data, optim_wrapper):
            loss, logged = self.parse_losses(self.forward(**data, mode="loss"))
            optim_wrapper.update_params(loss)
            return logged

    with pytest.raises(ConfigError, match="train_step did not call its forward with mode='loss'"):
        runner(tmp_path, [hook()], model=Model()).train()


def test_one_frozen_side_is_allowed(tmp_path):
    model = SomeoneElsesModel()
    for module in (model.stem, model.depth_head.conv1):
        module.requires_grad_(False)
    run = runner(tmp_path, [hook()], model=model)
    run.train()
    assert history(run, "loss_relation_hidden")[0] > 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite(tmp_path, value):
    run = runner(tmp_path, [hook()])
    run.model.depth_head.conv1.weight.data.fill_(value)
    with pytest.raises(TrainingError, match=r"depth \(hidden\).* not finite"):
        run.train()


def test_a_skipped_step_keeps_the_relations_attached(tmp_path):
    """The second of four steps has a NaN in a feature."""
    run = runner(tmp_path, [hook()], epochs=2, cfg=dict(non_finite="skip"))
    states = []

    def spoil(module, inputs, output):
        states.append({k: v.clone() for k, v in attached(run).neck.state_dict().items()})
        return output * torch.nan if len(states) == 2 else output

    run.model.depth_head.conv1.register_forward_hook(spoil)
    run.train()
    assert run.message_hub.get_info("skipped_steps") == 1
    assert len(history(run, "loss_relation_hidden")) == 3
    assert all(torch.equal(v, states[2][k]) for k, v in states[1].items())
    assert all(torch.isfinite(v).all() for v in covariances(run).values())


def test_a_model_with_a_neck_of_our_own_measures_already(tmp_path):
    model = SomeoneElsesModel()
    model.neck = TaskRelationNeck([("depth", "seg")])
    with pytest.raises(ConfigError, match=r"features: not used with model\.neck, which measures"):
        runner(tmp_path, [hook()], model=model).train()


def test_two_hooks_on_one_model(tmp_path):
    second = hook(features=dict(output=FEATURES["hidden"]), weights=dict(output=1.0))
    with pytest.raises(ConfigError, match="expected one TaskRelationLossHook with features"):
        runner(tmp_path, [hook(), second]).train()


def test_a_neck_of_another_type_is_refused(tmp_path):
    """Detectors have a neck too; the hook without features cannot use it."""
    model = SomeoneElsesModel()
    model.neck = nn.Identity()
    run = runner(
        tmp_path, [dict(type="trn_plugin.TaskRelationLossHook", weights=WEIGHTS)], model=model
    )
    with pytest.raises(ConfigError, match=r"model\.neck of type TaskRelationNeck, or its own feat"):
        run.train()
