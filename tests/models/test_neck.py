import pytest
import torch
from builders import batch, build

from trn_plugin.errors import ConfigError
from trn_plugin.models import TaskRelationNeck
from trn_plugin.relation import TaskRelationLayer
from trn_plugin.structures import MultiTaskBatch


def test_measures_what_layers_of_their_own_measure():
    model = build()
    layers = {level: TaskRelationLayer(0.9) for level in ("hidden", "output", "label")}
    for seed in range(3):
        x, samples = batch(16, seed=seed)
        losses = model(x, samples, "loss")
        with torch.no_grad():
            model.backbone.train()
            hidden = model.backbone(x)
        output = {t: model.heads[t](hidden[t]) for t in model.tasks}
        output = {t: model.heads[t].activate(value) for t, value in output.items()}
        label = MultiTaskBatch.of(samples, {t: model.heads[t].task for t in output}).targets
        for level, f in (("hidden", hidden), ("output", output), ("label", label)):
            expected = layers[level](f["landmarks"].detach(), f["pose"].detach())
            key = f"relation/{level}/landmarks-pose"
            assert losses[key].item() == pytest.approx(expected.item(), abs=1e-5)


def test_only_samples_with_both_labels_are_related():
    missing = {(0, "pose"), (3, "landmarks"), (5, "pose"), (5, "landmarks")}
    x, samples = batch(16, missing=missing)
    model = build()
    model.neck.train()
    losses = model(x, samples, "loss")
    rows = torch.tensor([r for r in range(16) if r not in (0, 3, 5)])
    landmarks = torch.stack([samples[r].gt["landmarks"].flatten() for r in rows])
    pose = torch.eye(5)[torch.stack([samples[r].gt["pose"] for r in rows])]
    expected = TaskRelationLayer(0.9)(landmarks, pose)
    assert losses["relation/label/landmarks-pose"].item() == pytest.approx(expected.item())


def test_groups_of_tasks():
    heads = {
        name: dict(type="AttributeHead", num_attributes=n)
        for name, n in (("a", 2), ("b", 1), ("c", 3))
    }
    relations = [(("a", "b"), ("c",)), ("a", "c")]
    model = build(heads=heads, relations=relations, levels=("output",))
    x, samples = batch(16)
    for row, sample in enumerate(samples):
        bits = [(row >> k) & 1 for k in range(6)]
        sample.gt = {n: torch.tensor(bits[:k]).float() for n, k in (("a", 2), ("b", 1), ("c", 3))}
    losses = model(x, samples, "loss")
    assert {k for k in losses if k.startswith("relation/")} == {
        f"relation/{level}/{name}"
        for level in ("output", "label", "samples")
        for name in ("a+b-c", "a-c")
    }
    assert model.neck.layers["output"].dims == (3, 3, 2)


@pytest.mark.parametrize(
    ("name", "path", "shared"),
    [
        ("test_resnet", "layer4", -1),
        ("test_resnet", "layer4", 0),
        ("test_resnet", "layer3.0.conv1", 2),
        ("test_vit", "blocks.5.attn", -2),
        ("test_convnext", "stages.3", -1),
    ],
)
def test_a_level_can_be_a_module_inside_the_tails(name, path, shared):
    model = build(name, shared, levels=("output", path))
    x, samples = batch(16)
    source = build(name, 0, neck=False)  # same seed: the same weights
    seen = {}
    module = source.backbone.tails["pose"].get_submodule(path)
    module.register_forward_hook(lambda m, i, out: seen.setdefault("pose", out))
    source.backbone(x)
    value = seen["pose"]
    expected = value.mean(1) if value.ndim == 3 else value.mean((2, 3))
    tapped = model.backbone.features(x).taps
    assert torch.allclose(tapped[path]["pose"], expected, atol=1e-5)
    assert model.neck.layers_of(path).dims == (expected.shape[1],) * 2
    assert f"relation/{path}/landmarks-pose" in model(x, samples, "loss")


def test_evaluation_leaves_the_state_alone():
    model = build()
    x, samples = batch(16)
    model(x, samples, "loss")
    before = {k: v.clone() for k, v in model.neck.state_dict().items()}
    model.eval()
    model(x, samples, "predict")
    model(x, samples, "loss")
    assert all(torch.equal(v, before[k]) for k, v in model.neck.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(relations=[("landmarks", "age")]), "'age' is not a task; .* landmarks, pose"),
        (dict(relations=[("pose", "pose")]), "two different, non-empty sides"),
        (dict(relations=["pose"]), "expected pairs of tasks"),
        (dict(relations=[]), "at least one pair"),
        (dict(relations=[("landmarks", "pose"), ("pose", "landmarks")]), "each pair once, found"),
        (dict(levels=("inner",)), "or a module of test_resnet, found 'inner'; its stages are"),
        (dict(levels=("inner",), shared=0), "found 'inner'"),
        (dict(levels=("layer1",)), "'layer1' lies before 'layer3', in the shared part"),
        (dict(levels=("layer4",), shared="all"), "'layer4' is not a separate module for each task"),
        (dict(levels="hidden"), "expected a list of"),
        (dict(shared="all"), "'hidden' relates a feature to itself"),
    ],
)
def test_errors_are_raised_when_the_model_is_built(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


ATTRIBUTES = {name: dict(type="AttributeHead", num_attributes=1) for name in "abcdef"}


def attribute_batch(n=32, missing=()):
    x, samples = batch(n)
    g = torch.Generator().manual_seed(7)
    for row, sample in enumerate(samples):
        bits = (torch.rand(6, 1, generator=g) < 0.5).float()
        gt = dict(zip(ATTRIBUTES, bits, strict=True))
        sample.gt = {task: bit for task, bit in gt.items() if (row, task) not in missing}
    return x, samples


def test_all_pairs_do_not_depend_on_the_order_of_the_heads():
    """A config that MMEngine has written has its keys sorted; its checkpoints fit."""
    heads = dict(
        pose=dict(type="ClassificationHead", num_classes=3),
        landmarks=dict(type="LandmarkHead", num_points=2),
        age=dict(type="RegressionHead", num_values=1),
    )
    models = [
        build(heads=dict(order), relations="all")
        for order in (heads.items(), sorted(heads.items()))
    ]
    assert models[0].neck.names == models[1].neck.names
    assert models[0].neck.names == ("age-landmarks", "age-pose", "landmarks-pose")
    models[1].load_state_dict(models[0].state_dict())


@pytest.mark.parametrize("deletion", ["pairwise", "listwise"])
def test_all_pairs_of_tasks(deletion):
    options = dict(heads=ATTRIBUTES, relations="all", levels=("output",), shared="all")
    model = build(**options, deletion=deletion)
    x, samples = attribute_batch()
    measured = []
    model.relation_losses.append(lambda m: measured.append(m) or {})
    losses = model(x, samples, "loss")
    assert len(model.neck.names) == 15
    # fifteen pairs are logged as their mean
    assert set(losses) - {f"loss_{t}" for t in ATTRIBUTES} == {
        "relation/output/mean",
        "relation/label/mean",
        "relation/samples/mean",
    }
    assert losses["relation/label/mean"] == pytest.approx(measured[0]["output"].label.mean().item())
    label = {t: torch.stack([s.gt[t] for s in samples]) for t in "af"}
    expected = TaskRelationLayer(0.9)(label["a"], label["f"])
    index = model.neck.names.index("a-f")
    assert measured[0]["output"].label[index].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(deletion="casewise"), "model.neck.deletion: expected 'pairwise' or 'listwise'"),
        (dict(momentum=1.0), r"model.neck.momentum: expected a number in \[0, 1\)"),
        (dict(heads={"a": ATTRIBUTES["a"]}, relations="all"), "'all' needs two tasks or more"),
    ],
)
def test_options_of_the_layers_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_neck_measures_the_statistic_that_is_asked_for():
    neck = TaskRelationNeck([("a", "b")], levels=("output",), momentum=0.9, statistic="pillai")
    widths = dict(a=4, b=3)
    neck.connect(dict(output=widths, label=widths))
    generator = torch.Generator().manual_seed(0)
    output, label = (
        {task: torch.randn(32, d, generator=generator) for task, d in widths.items()}
        for _ in range(2)
    )
    mask = {task: torch.ones(32, dtype=torch.bool) for task in widths}
    measured = neck(dict(output=output, label=label), mask)["output"]
    for value, features in ((measured.tau, output), (measured.label, label)):
        layer = TaskRelationLayer(0.9, statistic="pillai")
        assert value.item() == pytest.approx(layer(*features.values()).item(), rel=1e-6)
    with pytest.raises(ConfigError, match=r"model\.neck\.statistic: expected 'largest' or"):
        TaskRelationNeck([("a", "b")], statistic="roy")
