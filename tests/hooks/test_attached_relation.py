"""The relation loss on a model that was written without this package in mind."""

import copy
import os
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, LabelData
from processes import in_ranks
from torch import nn

from trn_plugin.checkpoints import load_checkpoint_file
from trn_plugin.engine import SafeRunner
from trn_plugin.errors import CheckpointError, ConfigError, TrainingError
from trn_plugin.hooks import TaskRelationLossHook
from trn_plugin.models import TaskRelationNeck
from trn_plugin.relation import TaskRelationLayer

CLASSES, SAMPLES = 3, 32
WEIGHTS = dict(hidden=1.0)
FEATURES = dict(hidden=dict(depth="depth_head.conv1", seg="seg_head.fc"))
LABELS = dict(depth="gt_depth.value", seg=dict(path="gt_label.label", num_classes=CLASSES))


class DepthHead(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(6, width, 3)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        return self.conv2(self.act(self.conv1(x))).mean((2, 3))


class SegHead(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(6, width)
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.out(self.fc(x.mean((2, 3))).tanh())


@MODELS.register_module()
class SomeoneElsesModel(BaseModel):
    """As the OpenMMLab projects write them."""

    def __init__(self, widths=(5, 4)):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 6, 3)
        self.depth_head = DepthHead(widths[0])
        self.seg_head = SegHead(widths[1])
        self.unused = nn.Identity()
        self.double()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = self.stem(torch.stack(list(inputs))).relu()
        depth, seg = self.depth_head(x), self.seg_head(x)
        if mode == "tensor":
            return depth, seg
        if mode == "predict":
            return data_samples
        losses = dict(loss_depth=[depth.sum() * 0, depth.sum() * 0], loss_seg=seg.sum() * 0)
        for row, sample in enumerate(data_samples):
            if "gt_depth" in sample:
                difference = depth[row] - sample.gt_depth.value.flatten()
                losses["loss_depth"][0] = losses["loss_depth"][0] + difference.square().sum() / len(
                    data_samples
                )
                losses["loss_depth"][1] = losses["loss_depth"][1] + difference.abs().sum() / len(
                    data_samples
                )
            if "gt_label" in sample:
                probabilities = seg[row].log_softmax(0)
                losses["loss_seg"] -= probabilities[sample.gt_label.label].sum() / len(data_samples)
        return losses


class Scenes(torch.utils.data.Dataset):
    metainfo: dict = {}

    def __init__(self, missing=()):
        self.missing = dict(missing)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(int(index))
        picture = torch.randn(1, 8, 8, generator=generator, dtype=torch.float64)
        sample = BaseDataElement()
        if self.missing.get(int(index)) != "depth":
            value = torch.stack([picture.mean(), picture.std()]).reshape(1, 2)
            sample.gt_depth = BaseDataElement(value=value)
        if self.missing.get(int(index)) != "seg":
            label = (picture.mean() > 0).long() + (picture.std() > 1).long()
            sample.gt_label = LabelData(label=label.reshape(1))
        return dict(inputs=picture, data_samples=sample)


MISSING = {0: "depth", 3: "seg", 4: "depth", 17: "depth", 30: "seg"}


def hook(**options):
    defaults = dict(
        type="trn_plugin.TaskRelationLossHook",
        weights=WEIGHTS,
        features=FEATURES,
        labels=LABELS,
        relations=[("depth", "seg")],
        momentum=0.9,
        min_samples_per_dim=0,
    )
    return defaults | options


def runner(
    work_dir,
    hooks=(),
    name="run",
    kind=SafeRunner,
    epochs=1,
    batch=16,
    missing=(),
    model=None,
    optim_wrapper=None,
    **options,
):
    init_default_scope("mmengine")
    return kind(
        model=model or dict(type="SomeoneElsesModel"),
        work_dir=os.path.join(work_dir, name),
        train_dataloader=dict(
            batch_size=batch,
            sampler=dict(type="DefaultSampler", shuffle=options.pop("shuffle", True)),
            dataset=Scenes(missing),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=optim_wrapper or dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        custom_hooks=list(hooks),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", interval=1),
        ),
        default_scope="mmengine",
        experiment_name=f"{abs(hash(str(work_dir)))}_{name}",
        randomness=dict(seed=3),
        log_level="WARNING",
        **options,
    )


def history(run, key):
    return run.message_hub.get_scalar(f"train/{key}").data[0].tolist()


def assert_same_weights(run, other):
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key]), key


def moments(run):
    return attached(run).state()["moments"]


def attached(run):
    return next(h for h in run.hooks if isinstance(h, TaskRelationLossHook)).attached


def test_the_loss_is_the_difference_of_both_similarities(tmp_path):
    """Compared with layers that are fed by hand with the model's features and labels."""
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


def test_weight_zero_is_the_model_alone_to_the_bit(tmp_path):
    alone, zero, trn = (
        runner(tmp_path, hooks, name=name)
        for name, hooks in (
            ("alone", []),
            ("zero", [hook(weights=dict(hidden=0.0))]),
            ("trn", [hook()]),
        )
    )
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


def test_the_model_is_left_as_it_was(tmp_path):
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
    """Evaluation, predictions and passes without gradient see the model as it is."""
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
    calls = (
        lambda: model(inputs, samples, "loss"),
        lambda: model(inputs=inputs, data_samples=samples, mode="loss"),
    )
    for call in calls:
        assert "relation/hidden/depth-seg" in call()
    relations.detach()


@pytest.mark.parametrize(
    ("kind", "widths"),
    [
        (SafeRunner, (5, 4)),
        (SafeRunner, (96, 100)),  # wide pairs start a step from where they were
        pytest.param(Runner, (5, 4), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, kind, widths, monkeypatch):
    if kind is Runner:  # MMEngine's own can be read no other way since torch 2.6
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
    states = [value for key, value in moments(whole).items() if key.endswith("_extra_state")]
    assert any(map(len, states)) == (min(widths) > 90)
    for key, value in moments(whole).items():
        assert torch.equal(value, moments(rest)[key]), key
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
def test_a_state_that_is_none(tmp_path, state):
    runner(tmp_path, [hook()], name="part").train()
    path = str(tmp_path / "part" / "epoch_1.pth")
    torch.save(load_checkpoint_file(path) | dict(relation_state=state), path)
    with pytest.raises(CheckpointError, match="relation_state: expected relations, dims, double"):
        runner(tmp_path, [hook()], name="part", epochs=2, resume=True).train()


def test_without_the_moments_a_resumed_run_would_differ(tmp_path):
    """What the test above relies on; and the run says that they are not there."""
    whole = runner(tmp_path, [hook()], name="whole", epochs=2)
    whole.train()
    path = str(tmp_path / "whole" / "epoch_1.pth")
    state = load_checkpoint_file(path)
    del state["relation_state"]
    torch.save(state, path)
    rest = runner(tmp_path, [hook()], name="rest", epochs=2, resume=True, load_from=path)
    said = []
    rest.logger.warning = lambda message, *args: said.append(message)
    rest.train()
    assert any("no relation_state" in message for message in said)
    assert history(whole, "loss") != history(rest, "loss")


def test_weights_to_start_from_do_not_bring_their_moments(tmp_path):
    """The similarity of the labels does not depend on the weights, only on the moments."""
    old = runner(tmp_path, [hook()], name="old", epochs=2)
    old.train()
    path = str(tmp_path / "old" / "epoch_2.pth")
    new = runner(tmp_path, [hook()], name="new", load_from=path)
    new.train()
    key = "relation/label/depth-seg"
    assert history(new, key) == history(old, key)[:2] != history(old, key)[2:]
    assert history(new, "loss") != history(old, "loss")[:2]


def test_moments_of_another_config_are_refused(tmp_path):
    runner(tmp_path, [hook()], name="part").train()
    other = hook(features=dict(output=FEATURES["hidden"]), weights=dict(output=1.0))
    wide = hook(features=dict(hidden=dict(depth="depth_head.conv1", seg="seg_head.out")))
    for changed, message in (
        (other, r"of the levels \['hidden', 'label'\], the config of \['output', 'label'\]"),
        (wide, r"of 'hidden' are .*'seg': 4.* wide, the model's .*'seg': 3"),
    ):
        run = runner(tmp_path, [changed], name="part", epochs=2, resume=True)
        with pytest.raises(CheckpointError, match=message):
            run.train()


def test_accumulated_gradients_keep_the_memory(tmp_path):
    """Two steps with the momentum's root remember as much as one with the momentum."""
    optim = dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=2)
    both = runner(tmp_path, [hook()], name="both", batch=8, optim_wrapper=optim)
    root = runner(tmp_path, [hook(momentum=0.9**0.5)], name="root", batch=8)
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
    for key, value in moments(eager).items():
        assert torch.allclose(value, moments(compiled)[key], rtol=1e-9), key


# shapes of models and data


class BatchedModel(BaseModel):
    """Takes labels as a dict of batches, under a name of its own, and runs a module in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(3, 5)
        self.third = nn.Linear(3, 2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, image, target=None, mode="tensor"):
        loss = (
            self.act(self.first(image)).sum() + self.second(image).sum() + self.third(image).sum()
        )
        return dict(loss_all=loss)


def relations_of(model, **options):
    options = (
        dict(
            features=dict(hidden=dict(a="first", b="second")),
            labels=dict(a="a", b="b"),
            relations=[("a", "b")],
            data_samples="target",
        )
        | options
    )
    weights = dict.fromkeys(options["features"], 1.0)
    made = TaskRelationLossHook(weights, min_samples_per_dim=0, **options)
    made.attached.attach(model, made.losses)
    return made.attached


def batch_of(n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return x, dict(a=x[:, :2] + 0.1, b=torch.randn(n, 2, generator=generator))


def test_batches_of_labels_and_samples_give_the_same():
    x, batched = batch_of()
    samples = [dict(a=a, nested=[dict(b=b)]) for a, b in zip(*batched.values(), strict=True)]
    found = []
    for target, b in ((batched, "b"), (samples, "nested.0.b")):
        model = BatchedModel()
        relations_of(model, labels=dict(a="a", b=b))
        found.append(model(x, target, "loss"))
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key
    assert 0 < found[0]["relation/label/a-b"] < 1


def test_features_are_those_before_a_change_in_place():
    """first's output becomes that of the activation, in the same memory."""
    x, target = batch_of()
    model = BatchedModel()
    relations_of(model, momentum=0.0)
    tau = model(x, target, "loss")["relation/hidden/a-b"]
    expected = TaskRelationLayer(0.0)(model.first(x), model.second(x))
    assert tau.item() == pytest.approx(expected.item(), abs=1e-6)
    after = TaskRelationLayer(0.0)(model.first(x).relu(), model.second(x))
    assert tau.item() != pytest.approx(after.item(), abs=1e-6)


def test_samples_without_a_label_are_left_out():
    """None, a NaN and ignore_index all say that there is none; as if the samples were not there."""
    x, target = batch_of(12)
    index = [i % 3 for i in range(12)]
    rows = [dict(a=a, b=b) for a, b in zip(target["a"], index, strict=True)]
    rows[2]["a"], rows[5]["a"], rows[7]["b"] = None, torch.tensor([1.0, torch.nan]), 255
    del rows[9]["b"]
    kept = [i for i in range(12) if i not in (2, 5, 7, 9)]
    found = []
    for inputs, samples in ((x, rows), (x[kept], [rows[i] for i in kept])):
        model = BatchedModel()
        relations_of(model, labels=dict(a="a", b=dict(path="b", num_classes=3, ignore_index=255)))
        losses = model(inputs, samples, "loss")
        losses["loss_relation_hidden"].backward()
        gradients = [p.grad for p in (model.first.weight, model.second.weight)]
        found.append((losses["relation/hidden/a-b"], losses["relation/label/a-b"], *gradients))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)
    assert found[0][2].abs().max() > 0


class HeadOnLabelledRows(BatchedModel):
    """Runs its first head on the samples that have a label of it only."""

    def forward(self, image, target=None, mode="tensor"):
        rows = [i for i, sample in enumerate(target) if has_number(sample["a"])]
        return dict(loss_all=self.first(image[rows]).sum() + self.second(image).sum())


def has_number(label):
    return label is not None and not label.isnan().any()


@pytest.mark.parametrize("missing", [None, torch.tensor([1.0, torch.nan])])
def test_rows_as_many_as_labelled_samples_are_those(missing):
    """As if the head had run on all samples, with the others left out."""
    x, target = batch_of(40)
    rows = [dict(a=a, b=b) for a, b in zip(target["a"], target["b"], strict=True)]
    for place in (0, 7, 8, 39):
        rows[place]["a"] = missing
    found = []
    for kind in (BatchedModel, HeadOnLabelledRows):
        model = kind()
        relations_of(model)
        losses = model(x, rows, "loss")
        losses["loss_relation_hidden"].backward()
        gradients = [p.grad for p in (model.first.weight, model.second.weight)]
        found.append((losses["relation/hidden/a-b"], losses["relation/label/a-b"], *gradients))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)
    assert found[0][2].abs().max() > 0


@pytest.mark.parametrize(
    ("relations", "names"),
    [
        ("all", ["a-b", "a-c", "b-c"]),
        ([(("a", "b"), ("c",)), ("a", "c")], ["a+b-c", "a-c"]),
    ],
)
def test_more_tasks_than_two(relations, names):
    """The loss is the mean over the relations."""
    x, target = batch_of()
    model = BatchedModel()
    paths = dict(a="first", b="second", c="third")
    relations_of(
        model, features=dict(low=paths), labels=dict(a="a", b="b", c="a"), relations=relations
    )
    losses = model(x, target, "loss")
    taus, labels = (
        torch.stack([losses[f"relation/{level}/{name}"] for name in names])
        for level in ("low", "label")
    )
    assert losses["loss_relation_low"].item() == pytest.approx((taus - labels).abs().mean().item())


def test_autocast():
    """Features in bfloat16 are measured in float32, and their gradient is finite."""
    x, target = batch_of()
    model = BatchedModel()
    relations_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(x, target, "loss")
    losses["loss_relation_hidden"].backward()
    assert losses["relation/hidden/a-b"].dtype == torch.float32
    assert torch.isfinite(model.second.weight.grad).all()
    assert model.second.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("shape", "dim", "expected"),
    [
        ((4, 7), None, lambda x: x),
        ((4, 5, 7), None, lambda x: x.mean(1)),
        ((4, 7, 5), 1, lambda x: x.mean(2)),
        ((4, 7, 3, 5), None, lambda x: x.mean((2, 3))),
        ((4, 3, 5, 7), -1, lambda x: x.mean((1, 2))),
        ((4, 7, 2, 3, 5), None, lambda x: x.mean((2, 3, 4))),
    ],
)
def test_positions_are_averaged(shape, dim, expected):
    from trn_plugin.hooks._features import FeatureReader
    from trn_plugin.hooks._labels import Labels

    holder = nn.ModuleDict(dict(tap=nn.Identity()))
    reader = FeatureReader(dict(path="tap", dim=dim), "features.hidden.a")
    reader.attach(holder, lambda: True)
    x = torch.randn(shape, dtype=torch.bfloat16)
    holder["tap"]((x,))
    found, mask = reader.take(4, Labels(None, None, torch.arange(4)))
    assert mask is None
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected(x.float()), atol=1e-6)


def test_the_example_in_the_docs(tmp_path):
    text = (Path(__file__).parents[2] / "docs/guides/any_model.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in text.split("```python")[1:]]
    config: dict = {}
    exec(next(block for block in blocks if "depth_head.conv1" in block), config)
    run = runner(tmp_path, config["custom_hooks"], epochs=3)
    run.train()
    assert history(run, "relation/weight_hidden")[-1] == pytest.approx(0.001)
    assert history(run, "loss_relation_hidden")[-1] > 0


# mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(features=None), r"hook\.labels: also needs features"),
        (dict(labels=None), r"hook\.features: also needs labels"),
        (dict(features={}), r"features: expected a dict that is not empty"),
        (dict(relations=[]), r"relations: expected at least one pair"),
        (dict(relations=[("depth", "depth")]), r"relations: expected two different"),
        (dict(momentum=1.0), r"Hook\.momentum: expected a number in \[0, 1\), got 1\.0"),
        (dict(weights=dict(output=1.0)), r"'output' is not measured; .*features are \('hidden',\)"),
        (dict(labels=dict(depth="a")), r"labels: expected the tasks .*depth, seg; it lacks seg"),
        (
            dict(labels=LABELS | dict(pose="gt")),
            r"labels: expected the tasks of relations, depth, seg; none of them is pose",
        ),
        (dict(labels=LABELS | dict(depth=3)), r"labels\.depth: expected a path or dict\(path"),
        (dict(labels=LABELS | dict(depth="a..b")), r"expected names joined by dots, got 'a\.\.b'"),
        (
            dict(labels=LABELS | dict(seg=dict(path="a", num_classes=1))),
            r"labels\.seg\.num_classes: expected a number of at least 2, got 1",
        ),
        (dict(features=dict(hidden=dict(depth="a"))), r"features\.hidden: .* it lacks seg"),
        (
            dict(features=dict(hidden=FEATURES["hidden"] | dict(seg=dict(path="a", pool=1)))),
            r"features\.hidden\.seg: expected the name of a module or dict\(path=..., dim=",
        ),
        (dict(features={"hidden_loss": FEATURES["hidden"]}), r"'hidden_loss' cannot be a name"),
        (dict(features={"a.b": FEATURES["hidden"]}), r"'a\.b' cannot be a level"),
        (dict(features={"label": FEATURES["hidden"]}), r"'label' cannot be a level"),
    ],
)
def test_mistakes_in_the_config(change, message):
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
            r"labels\.depth: expected one class index in each sample, .* got 2 numbers of",
        ),
        (
            dict(labels=LABELS | dict(depth="gt_depth")),
            r"'gt_depth' leads to a BaseDataElement with value, expected numbers",
        ),
        (dict(data_samples="samples"), r"no argument 'samples'; its arguments are inputs, data_s"),
    ],
)
def test_mistakes_that_training_meets(tmp_path, change, message):
    run = runner(tmp_path, [hook(**change)])
    with pytest.raises(ConfigError, match=message) as raised:
        run.train()
    assert "\n" not in str(raised.value)
    assert not run.model._forward_hooks


class Odd(SomeoneElsesModel):
    """One more module, ``odd``; ``make`` calls it and may make other losses."""

    def __init__(self, make):
        super().__init__()
        self.odd = nn.Identity()
        self.make = make

    def forward(self, inputs, data_samples=None, mode="tensor"):
        losses = super().forward(inputs, data_samples, mode)
        made = self.make(self.odd, torch.stack(list(inputs)), losses)
        return losses if made is None else made


def calls(*arguments):
    """Makes calls of ``odd`` with what the functions make of a (16, 1, 8, 8) picture."""

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
        (calls(lambda x: x[:, :, :0]), r"'odd' gives \(16, 1, 0, 8\), expected one"),
        (
            calls(lambda x: x[:5]),
            r"'odd' gives 5 rows of features, expected one for each of 16",
        ),
        (lambda odd, x, losses: odd(x), r"forward returned a Tensor in mode 'loss', expected a d"),
        (
            lambda odd, x, losses: losses | {"loss_relation_hidden": odd(x).mean()},
            r"the model itself returns loss_relation_hidden",
        ),
    ],
)
def test_models_that_do_not_fit(tmp_path, make, message):
    run = runner(tmp_path, [hook(**at("odd"))], model=Odd(make))
    with pytest.raises(ConfigError, match=message) as raised:
        run.train()
    assert "\n" not in str(raised.value)
    assert not run.model._forward_hooks


def test_features_without_any_gradient(tmp_path):
    model = SomeoneElsesModel()
    for module in (model.stem, model.depth_head.conv1, model.seg_head.fc):
        module.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"features\.hidden: no gradient flows through any of"):
        runner(tmp_path, [hook()], model=model).train()


def test_a_model_that_trains_past_its_forward(tmp_path):
    class Model(SomeoneElsesModel):
        def train_step(self, data, optim_wrapper):
            loss, logged = self.parse_losses(self.forward(**data, mode="loss"))
            optim_wrapper.update_params(loss)
            return logged

    with pytest.raises(ConfigError, match="train_step did not call its forward with mode='loss'"):
        runner(tmp_path, [hook()], model=Model()).train()


def test_one_frozen_side_is_no_mistake(tmp_path):
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


def test_a_step_that_is_left_out_leaves_the_relations_attached(tmp_path):
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
    assert all(torch.isfinite(v).all() for v in moments(run).values())


def test_a_model_with_a_neck_of_our_own_measures_already(tmp_path):
    model = SomeoneElsesModel()
    model.neck = TaskRelationNeck([("depth", "seg")])
    with pytest.raises(ConfigError, match=r"features: not used with model\.neck, which measures"):
        runner(tmp_path, [hook()], model=model).train()


def test_two_hooks_on_one_model(tmp_path):
    second = hook(features=dict(output=FEATURES["hidden"]), weights=dict(output=1.0))
    with pytest.raises(ConfigError, match="two TaskRelationLossHooks with features; one measures"):
        runner(tmp_path, [hook(), second]).train()


def test_a_neck_of_another_kind_is_not_ours(tmp_path):
    """Detectors have a neck too; the hook without features cannot use it."""
    model = SomeoneElsesModel()
    model.neck = nn.Identity()
    run = runner(
        tmp_path, [dict(type="trn_plugin.TaskRelationLossHook", weights=WEIGHTS)], model=model
    )
    with pytest.raises(ConfigError, match=r"model\.neck of type TaskRelationNeck, or its own feat"):
        run.train()


def test_after_an_error_in_the_model_it_can_be_trained_again(tmp_path):
    """What a run left behind when the model's own code failed is removed by the next one."""

    def fail(odd, x, losses):
        raise MemoryError

    run = runner(tmp_path, [hook()], name="a", model=Odd(fail))
    with pytest.raises(MemoryError):
        run.train()
    run.model.make = calls()
    again = runner(tmp_path, [hook()], name="b", model=run.model)
    again.train()
    assert not run.model._forward_hooks


# several processes


def train(rank, ranks, out):
    """A whole run; each rank has every other sample of a batch."""
    options = dict(launcher="pytorch") if ranks > 1 else {}
    run = runner(
        out,
        [hook()],
        f"{ranks}",
        epochs=3,
        batch=16 // ranks,
        missing=MISSING | dict.fromkeys(range(1, 16, 2), "depth"),  # the second rank's first batch
        shuffle=False,
        **options,
    )
    run.train()
    state = {k.removeprefix("module."): v.clone() for k, v in run.model.state_dict().items()}
    keys = ("loss_depth", "loss_seg", "loss_relation_hidden", "relation/label/depth-seg")
    return state, {k: history(run, k) for k in keys}, moments(run)


def test_two_ranks_equal_one(tmp_path):
    """2 x 8 samples a step give what 1 x 16 give, with labels missing in different places."""
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
