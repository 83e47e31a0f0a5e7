"""The relation loss on a model that knows nothing of this package."""

import copy
from pathlib import Path

import pytest
import torch
from foreign_model import (
    CLASSES,
    FEATURES,
    MISSING,
    Scenes,
    SomeoneElsesModel,
    attached,
    covariances,
    hook,
    runner,
)
from mmengine.runner import Runner
from processes import in_ranks
from test_relation_loss import history
from tiny import assert_same_weights

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.engine import SafeRunner
from trn_plugin.errors import CheckpointError, ConfigError
from trn_plugin.relation import TaskRelationLayer


def test_the_loss_is_the_difference_of_both_similarities(tmp_path):
    """Equals layers called directly with the model's features and labels."""
    trn = runner(tmp_path, [hook(weights=dict(hidden=0.5))], name="trn", shuffle=False)
    model = copy.deepcopy(trn.model)
    trn.train()
    data = [Scenes()[i] for i in range(16)]
    with torch.no_grad():
        x = model.stem(torch.stack([d["inputs"] for d in data])).relu()
        hidden = (model.depth_head.conv1(x).mean((2, 3)), model.seg_head.fc(x.mean((2, 3))))
    samples = [d["data_samples"] for d in data]
    depth = torch.stack([s.gt_depth.value.flatten() for s in samples])
    seg = torch.eye(CLASSES)[torch.cat([s.gt_label.label for s in samples])]
    tau, label = TaskRelationLayer(0.9)(*hidden), TaskRelationLayer(0.9)(depth, seg.double())
    first = {key: history(trn, key)[0] for key in ("loss", "loss_depth", "loss_seg")}
    assert history(trn, "relation/hidden/depth-seg")[0] == pytest.approx(tau.item(), rel=1e-9)
    assert history(trn, "relation/label/depth-seg")[0] == pytest.approx(label.item(), rel=1e-9)
    relation = history(trn, "loss_relation_hidden")[0]
    assert relation == pytest.approx(0.5 * abs(tau - label).item(), rel=1e-9)
    assert first["loss"] == pytest.approx(first["loss_depth"] + first["loss_seg"] + relation)


def test_weight_zero_is_bit_identical_to_the_model_alone(tmp_path):
    hooks = [], [hook(weights=dict(hidden=0.0))], [hook()]
    alone, zero, trn = (runner(tmp_path, own, name=str(i)) for i, own in enumerate(hooks))
    for run in (alone, zero, trn):
        run.train()
    assert_same_weights(alone, zero)
    assert history(zero, "relation/hidden/depth-seg")[0] > 0
    moved = {
        key.split(".")[0]
        for key, value in alone.model.state_dict().items()
        if not torch.equal(value, trn.model.state_dict()[key])
    }
    assert moved == {"stem", "depth_head", "seg_head"}


def test_the_model_is_not_modified(tmp_path):
    run = runner(tmp_path, [hook()])
    keys, attributes = list(run.model.state_dict()), set(vars(run.model))
    run.train()
    assert list(run.model.state_dict()) == keys
    assert set(vars(run.model)) == attributes
    for name, module in run.model.named_modules():
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name
        assert not module._forward_hooks_always_called, name
    state = load_checkpoint_file(tmp_path / "run" / "epoch_1.pth")
    assert list(state["state_dict"]) == keys
    assert all(torch.is_tensor(v) for v in state["relation_state"]["moments"].values())


def test_only_training_steps_count(tmp_path):
    """Evaluation, prediction and passes without gradient are not measured."""
    run = runner(tmp_path, [hook()])
    run.train()
    relations, model = attached(run), run.model
    relations.attach(model, lambda measured: {})
    before = {key: value.clone() for key, value in relations.neck.state_dict().items()}
    data = [Scenes()[i] for i in range(16)]
    inputs = [d["inputs"] for d in data]
    samples = [d["data_samples"] for d in data]
    model.train()
    model(inputs, samples, mode="tensor")
    with torch.no_grad():
        assert set(model(inputs, samples, mode="loss")) == {"loss_depth", "loss_seg"}
    model.eval()
    assert set(model(inputs, samples, mode="loss")) == {"loss_depth", "loss_seg"}
    for key, value in relations.neck.state_dict().items():
        assert torch.equal(value, before[key]), key
    model.train()
    assert "relation/hidden/depth-seg" in model(inputs, samples, "loss")
    assert "relation/hidden/depth-seg" in model(inputs=inputs, data_samples=samples, mode="loss")
    relations.detach()


@pytest.mark.parametrize(
    ("kind", "widths"),
    [
        (SafeRunner, (5, 4)),
        (SafeRunner, (96, 100)),  # wide pairs are solved iteratively, from the last solution
        pytest.param(Runner, (5, 4), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, kind, widths, monkeypatch):
    if kind is Runner:  # since torch 2.6, needed to load MMEngine's own
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    model = dict(type="SomeoneElsesModel", widths=widths)
    options = dict(kind=kind, missing=MISSING, model=model)
    whole = runner(tmp_path, [hook()], name="whole", epochs=3, **options)
    whole.train()
    runner(tmp_path, [hook()], name="part", epochs=2, **options).train()
    rest = runner(tmp_path, [hook()], name="part", epochs=3, resume=True, **options)
    rest.train()
    assert rest.iter == whole.iter
    assert_same_weights(whole, rest)
    states = [value for key, value in covariances(whole).items() if key.endswith("_extra_state")]
    assert any(map(len, states)) == (min(widths) > 90)
    for key, value in covariances(whole).items():
        assert torch.equal(value, covariances(rest)[key]), key
    for key in ("loss", "relation/hidden/depth-seg"):
        assert history(whole, key) == history(rest, key)


def test_a_run_may_resume_at_a_batch_without_a_label(tmp_path):
    missing = dict.fromkeys(range(16, 32), "depth")
    runner(tmp_path, [hook()], name="part", missing=missing, shuffle=False).train()
    missing = dict.fromkeys(range(32), "depth")
    options = dict(missing=missing, shuffle=False, epochs=2)
    rest = runner(tmp_path, [hook()], name="part", resume=True, **options)
    rest.train()
    assert len(set(history(rest, "relation/label/depth-seg")[1:])) == 1
    with pytest.raises(ConfigError, match=r"labels\.depth: no sample of the first batch has"):
        runner(tmp_path, [hook()], name="new", **options).train()


@pytest.mark.parametrize("state", [3, dict(moments={}), dict(dims={}, moments={})])
def test_an_invalid_state_is_refused(tmp_path, state):
    runner(tmp_path, [hook()], name="part").train()
    path = str(tmp_path / "part" / "epoch_1.pth")
    torch.save(load_checkpoint_file(path) | dict(relation_state=state), path)
    with pytest.raises(CheckpointError, match="relation_state: expected relations, dims, double"):
        runner(tmp_path, [hook()], name="part", epochs=2, resume=True).train()


def test_a_checkpoint_without_covariances_warns(tmp_path, capsys):
    runner(tmp_path, name="part").train()
    runner(tmp_path, [hook()], name="part", epochs=2, resume=True).train()
    assert "the checkpoint has no relation_state" in capsys.readouterr().out


def test_initial_weights_do_not_restore_covariances(tmp_path):
    """The similarity of the labels does not depend on the weights, only on the covariances."""
    old = runner(tmp_path, [hook()], name="old", epochs=2)
    old.train()
    path = str(tmp_path / "old" / "epoch_2.pth")
    new = runner(tmp_path, [hook()], name="new", load_from=path)
    new.train()
    key = "relation/label/depth-seg"
    assert history(new, key) == history(old, key)[:2] != history(old, key)[2:]
    assert history(new, "loss") != history(old, "loss")[:2]


def test_covariances_of_another_config_are_refused(tmp_path):
    runner(tmp_path, [hook()], name="part").train()
    other = hook(features=dict(output=FEATURES["hidden"]), weights=dict(output=1.0))
    wide = hook(features=dict(hidden=dict(depth="depth_head.conv1", seg="seg_head.out")))
    for changed, message in (
        (other, r"has the levels \['hidden', 'label'\], the config \['output', 'label'\]"),
        (wide, r"of 'hidden' are .*'seg': 4.* wide, the model's .*'seg': 3"),
    ):
        run = runner(tmp_path, [changed], name="part", epochs=2, resume=True)
        with pytest.raises(CheckpointError, match=message):
            run.train()


def test_accumulated_gradients_keep_the_momentum_of_a_step(tmp_path):
    """k micro-batches use the k-th root of the momentum each."""
    optim = dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=2)
    both = runner(tmp_path, [hook()], name="both", batch_size=8, optim_wrapper=optim)
    root = runner(tmp_path, [hook(momentum=0.9**0.5)], name="root", batch_size=8)
    for run in (both, root):
        run.train()
    key = "relation/label/depth-seg"
    assert history(both, key) == pytest.approx(history(root, key), rel=1e-9)
    assert history(both, "loss") != history(root, "loss")


def test_too_few_samples_are_refused_in_the_first_step(tmp_path):
    strict = hook(min_samples_per_dim=50)
    message = r"depth-seg at level 'hidden' needs 50 x \(5 \+ 4\) = 450 .* tends to 304"
    with pytest.raises(ConfigError, match=message):
        runner(tmp_path, [strict], name="a").train()
    run = runner(tmp_path, [strict | dict(allow_undersampled=True)], name="b")
    run.train()
    assert set(history(run, "loss_relation_hidden")) == {0.0}


@pytest.mark.slow
def test_compiled_training_gives_the_same(tmp_path):
    eager = runner(tmp_path, [hook()], name="eager", epochs=2)
    compiled = runner(
        tmp_path, [hook()], name="compiled", epochs=2, cfg=dict(compile=dict(backend="eager"))
    )
    for run in (eager, compiled):
        run.train()
    assert history(eager, "loss") == pytest.approx(history(compiled, "loss"), rel=1e-9)
    for key, value in covariances(eager).items():
        assert torch.allclose(value, covariances(compiled)[key], rtol=1e-9), key


def test_the_example_in_the_docs(tmp_path):
    text = (Path(__file__).parents[2] / "docs/guides/any_model.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python")[1:]]
    config: dict = {}
    exec(next(block for block in blocks if "depth_head.conv1" in block), config)
    run = runner(tmp_path, config["custom_hooks"], epochs=3)
    run.train()
    assert history(run, "relation/weight_hidden")[-1] == pytest.approx(0.001)
    assert history(run, "loss_relation_hidden")[-1] > 0


def train(rank, ranks, out):
    """Train; each rank gets every other sample of a batch."""
    options = dict(launcher="pytorch") if ranks > 1 else {}
    run = runner(
        out,
        [hook()],
        f"{ranks}",
        epochs=3,
        batch_size=16 // ranks,
        missing=MISSING | dict.fromkeys(range(1, 16, 2), "depth"),  # the second rank's first batch
        shuffle=False,
        **options,
    )
    run.train()
    state = {k.removeprefix("module."): v.clone() for k, v in run.model.state_dict().items()}
    keys = ("loss_depth", "loss_seg", "loss_relation_hidden", "relation/label/depth-seg")
    return state, {k: history(run, k) for k in keys}, covariances(run)


def test_two_ranks_equal_one(tmp_path):
    """2 x 8 samples a step equal 1 x 16, with labels missing in different places."""
    parts = in_ranks(train, 2, tmp_path, folder=tmp_path)
    state, logs, running = train(0, 1, tmp_path)
    for part_state, part_logs, part_running in parts:
        for key, value in state.items():
            assert torch.allclose(part_state[key], value, rtol=1e-9, atol=1e-12), key
        for key, value in running.items():
            assert torch.allclose(part_running[key], value, rtol=1e-9, atol=1e-12), key
        for key in ("loss_relation_hidden", "relation/label/depth-seg"):
            assert part_logs[key] == pytest.approx(logs[key], rel=1e-9), key
    for key in ("loss_depth", "loss_seg"):
        shares = [sum(values) / 2 for values in zip(*(p[1][key] for p in parts), strict=True)]
        assert shares == pytest.approx(logs[key], rel=1e-9), key
    assert not torch.equal(state["stem.weight"], SomeoneElsesModel().stem.weight)
