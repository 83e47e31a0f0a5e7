"""The relation loss on models and labels of other structures."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from trn_plugin.hooks import TaskRelationLossHook
from trn_plugin.relation import TaskRelationLayer


class BatchedModel(BaseModel):
    """Takes labels as a dict of batches named ``target``, and has an in-place activation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(3, 5)
        self.third = nn.Linear(3, 2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, image, target=None, mode="tensor"):
        loss = self.act(self.first(image)).sum() + self.second(image).sum()
        return dict(loss_all=loss + self.third(image).sum())


def relations_of(model, **options):
    features, labels = dict(hidden=dict(a="first", b="second")), dict(a="a", b="b")
    defaults = dict(features=features, labels=labels, relations=[("a", "b")], data_samples="target")
    options = defaults | options
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


def test_features_are_read_before_in_place_changes():
    """The in-place activation overwrites the output of ``first``."""
    x, target = batch_of()
    model = BatchedModel()
    relations_of(model, momentum=0.0)
    tau = model(x, target, "loss")["relation/hidden/a-b"]
    expected = TaskRelationLayer(0.0)(model.first(x), model.second(x))
    assert tau.item() == pytest.approx(expected.item(), abs=1e-6)
    after = TaskRelationLayer(0.0)(model.first(x).relu(), model.second(x))
    assert tau.item() != pytest.approx(after.item(), abs=1e-6)


def test_samples_without_a_label_are_left_out():
    """None, NaN and ignore_index mark missing labels; such samples have no effect."""
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
        found.append(similarities_and_gradients(model, inputs, samples))
    assert_equal_and_not_zero(*found)


def similarities_and_gradients(model, inputs, samples):
    losses = model(inputs, samples, "loss")
    losses["loss_relation_hidden"].backward()
    gradients = [p.grad for p in (model.first.weight, model.second.weight)]
    return losses["relation/hidden/a-b"], losses["relation/label/a-b"], *gradients


def assert_equal_and_not_zero(first, second):
    for one, other in zip(first, second, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)
    assert first[2].abs().max() > 0


class HeadOnLabelledRows(BatchedModel):
    """Runs its first head on the labelled samples only."""

    def forward(self, image, target=None, mode="tensor"):
        rows = [i for i, sample in enumerate(target) if has_number(sample["a"])]
        return dict(loss_all=self.first(image[rows]).sum() + self.second(image).sum())


def has_number(label):
    return label is not None and not label.isnan().any()


@pytest.mark.parametrize("missing", [None, torch.tensor([1.0, torch.nan])])
def test_rows_of_the_labelled_samples_only(missing):
    """Equals a head that runs on all samples, with a mask."""
    x, target = batch_of(40)
    rows = [dict(a=a, b=b) for a, b in zip(target["a"], target["b"], strict=True)]
    for place in (0, 7, 8, 39):
        rows[place]["a"] = missing
    found = []
    for kind in (BatchedModel, HeadOnLabelledRows):
        model = kind()
        relations_of(model)
        found.append(similarities_and_gradients(model, x, rows))
    assert_equal_and_not_zero(*found)


class HeadWithLabelsOnly(HeadOnLabelledRows):
    """Does not run its first head without any labelled sample."""

    def forward(self, image, target=None, mode="tensor"):
        if any(has_number(sample["a"]) for sample in target):
            return super().forward(image, target, mode)
        return dict(loss_all=self.second(image).sum())


def test_a_head_without_labelled_rows_need_not_run():
    """The next step equals one after a step whose samples lack the label."""
    found = []
    for kind in (BatchedModel, HeadWithLabelsOnly):
        model = kind()
        relations_of(model)
        for seed, labelled in enumerate((True, False, True)):
            x, target = batch_of(40, seed)
            pairs = zip(target["a"], target["b"], strict=True)
            rows = [dict(a=a if labelled else None, b=b) for a, b in pairs]
            last = similarities_and_gradients(model, x, rows)
        found.append(last)
    assert_equal_and_not_zero(*found)


@pytest.mark.parametrize("apart", [True, False])
def test_a_relation_that_is_never_measured_is_told_once(apart):
    x, target = batch_of()
    pairs = zip(target["a"], target["b"], strict=True)
    rows = [
        dict(a=a if i % 2 else None, b=None if apart and i % 2 else b)
        for i, (a, b) in enumerate(pairs)
    ]
    model, told = BatchedModel(), []
    options = dict(features=dict(hidden=dict(a="first", b="second")), labels=dict(a="a", b="b"))
    hook = TaskRelationLossHook(
        dict(hidden=1.0), relations=[("a", "b")], data_samples="target", **options
    )
    hook.attached.attach(model, hook.losses)
    model(x, rows, "loss")
    for _ in range(2):
        hook.after_train_epoch(SimpleNamespace(logger=SimpleNamespace(warning=told.append)))
    assert len(told) == apart
    assert all("a-b" in line for line in told)


def test_a_model_is_attached_once():
    """A run that ended with an error leaves its hooks; the next run removes them."""
    x, target = batch_of()
    model = BatchedModel()
    found = [(relations_of(model), model(x, target, "loss"))[1] for _ in range(2)]
    assert found[0].keys() == found[1].keys()
    assert torch.equal(found[0]["loss_relation_hidden"], found[1]["loss_relation_hidden"])


@pytest.mark.parametrize(
    ("relations", "names"),
    [
        ("all", ["a-b", "a-c", "b-c"]),
        ([(("a", "b"), ("c",)), ("a", "c")], ["a+b-c", "a-c"]),
    ],
)
def test_more_tasks_than_two(relations, names):
    """The loss is averaged over the relations."""
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
