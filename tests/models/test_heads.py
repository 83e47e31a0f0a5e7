from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import build

from trn_plugin.errors import ConfigError, DataError
from trn_plugin.models import AttributeHead, ClassificationHead, LandmarkHead, RegressionHead
from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample
from trn_plugin.tasks import ValueTask

HEADS = [
    (LandmarkHead(5, 8), torch.rand(5, 2)),
    (ClassificationHead(5, 8), torch.tensor(3)),
    (AttributeHead(3, 8), torch.tensor([0.0, 1, 1])),
    (RegressionHead(2, 8, mean=[30, -2], std=[0.5, 0.2]), torch.tensor([31.0, -2.1])),
]


def encode(head, labels):
    """Loss targets and mask of labels, which are None where missing."""
    samples = [MultiTaskDataSample(gt={} if label is None else {"a": label}) for label in labels]
    batch = MultiTaskBatch.of(samples, {"a": head.task})
    return head.prepare(batch.targets["a"], batch.masks["a"]), batch.masks["a"]


@pytest.mark.parametrize(("head", "label"), HEADS)
def test_missing_labels_give_no_loss_and_no_gradient(head, label):
    hidden = torch.randn(4, 8)
    labels = [label, None, label, None]
    hidden[1] = float("nan")  # what an unlabelled sample holds must not matter
    hidden.requires_grad_()
    targets, mask = encode(head, labels)
    loss = head.loss(head(hidden), targets, mask)
    (g,) = torch.autograd.grad(loss, hidden)
    assert mask.tolist() == [True, False, True, False]
    assert g[mask].abs().sum() > 0
    assert not g[3].any()
    some, all_of_them = encode(head, [label, label])
    assert loss.item() == pytest.approx(
        head.loss(head(hidden[mask]), some, all_of_them).item(), rel=1e-6
    )
    targets, mask = encode(head, [None] * 4)
    loss = head.loss(head(hidden), targets, mask)
    assert loss == 0
    assert not torch.autograd.grad(loss, hidden)[0][2:].any()


@pytest.mark.parametrize(("head", "label"), HEADS)
def test_training_on_one_label_predicts_it(head, label):
    hidden = torch.randn(1, 8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.003)
    for _ in range(1500):
        targets, mask = encode(head, [label])
        optimizer.zero_grad()
        head.loss(head(hidden), targets, mask).backward()
        optimizer.step()
    pred = head.predict(head(hidden))[0]
    if isinstance(head, ClassificationHead):
        assert pred.argmax() == label
        assert pred.sum().item() == pytest.approx(1)
    else:
        assert torch.allclose(pred, label, atol=0.05)


@pytest.mark.parametrize(
    ("head", "label", "message"),
    [
        (HEADS[0][0], torch.rand(4, 2), r"shape \(5, 2\), finite, found shape \(4, 2\)"),
        (HEADS[0][0], torch.full((5, 2), float("nan")), "finite"),
        (HEADS[1][0], torch.tensor(5), r"one class index 0\.\.4, found 5"),
        (HEADS[1][0], torch.tensor(-1), "found -1"),
        (HEADS[2][0], torch.tensor([0.0, 1]), "3 values 0 or 1"),
        (HEADS[2][0], torch.tensor([0.0, 1, -1]), "3 values 0 or 1"),
        (HEADS[3][0], torch.tensor([0.0, 1, 2]), "2 finite numbers"),
        (HEADS[3][0], torch.tensor([0.0, float("inf")]), "2 finite numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(head, label, message):
    with pytest.raises(DataError, match=message):
        encode(head, [label])


def test_class_weights_scale_the_loss_of_a_class():
    torch.manual_seed(0)
    head = ClassificationHead(3, 8)
    weighted = ClassificationHead(3, 8, class_weights=(1.0, 2.0, 0.0))
    weighted.load_state_dict(head.state_dict())
    hidden = torch.randn(3, 8)
    targets, _ = encode(head, [torch.tensor(i) for i in range(3)])
    plain, other = (h.sample_loss(h(hidden), targets) for h in (head, weighted))
    assert torch.allclose(other, plain * torch.tensor([1.0, 2.0, 0.0]))


def test_pos_weight_scales_the_loss_where_the_attribute_is_there():
    plain, weighted = AttributeHead(2, 4), AttributeHead(2, 4, pos_weight=[3, 0.5])
    logits = torch.randn(6, 2)
    for column, factor in enumerate([3, 0.5]):
        for value in (0.0, 1.0):
            only = torch.zeros(6, 2)
            only[:, column] = value
            rest = torch.zeros(6, 2)
            change = weighted.sample_loss(logits, only) - plain.sample_loss(logits, only)
            change -= weighted.sample_loss(logits, rest) - plain.sample_loss(logits, rest)
            positive = F.binary_cross_entropy_with_logits(
                logits[:, column], torch.ones(6), reduction="none"
            )
            torch.testing.assert_close(change, value * (factor - 1) * positive / 2)
    assert "pos_weight" not in weighted.state_dict()


def test_balanced_labels_pull_to_neither_side():
    """A bias alone, trained on the labels that set the weights, keeps probability 1/2."""
    labels = (torch.rand(400, 3) < torch.tensor([0.02, 0.5, 0.9])).float()
    labels[0], labels[1] = 1, 0
    head = AttributeHead(3, 4, pos_weight="balanced")
    head.take("pos_weight", labels)
    logits = torch.zeros(400, 3, requires_grad=True)
    head.sample_loss(logits, labels).sum().backward()
    torch.testing.assert_close(logits.grad.sum(0), torch.zeros(3), atol=1e-4, rtol=0)
    for labels in (np.array([[0, 1, 1], [0, 1, 0]]), np.zeros((0, 3))):
        head.take("pos_weight", labels)
        assert head.pos_weight.tolist() == [1, 1, 1]


def test_pos_weight_comes_from_the_training_labels():
    heads = dict(smile=dict(type="AttributeHead", num_attributes=2, pos_weight="balanced"))
    model = build(heads=heads, neck=False)
    with pytest.raises(ConfigError, match=r"heads\.smile\.pos_weight.*found SimpleNamespace"):
        model.fit_to_labels(SimpleNamespace())
    labels = dict(smile=np.array([[1, 1], [0, 1], [0, 0], [0, 0]] + [[0, 1], [0, 0]] * 3))
    model.fit_to_labels(SimpleNamespace(labels_of=labels.get))
    torch.testing.assert_close(model.heads["smile"].pos_weight, torch.tensor([9.0, 1.0]))


def test_standardised_targets_and_predictions_in_the_labels_units():
    labels = [torch.tensor([20.0, 1e-3]), None, torch.tensor([50.0, 3e-3])]
    head = RegressionHead(2, 4, mean=[30, 2e-3], std=[10, 1e-3])
    targets, mask = encode(head, labels)
    assert mask.tolist() == [True, False, True]
    torch.testing.assert_close(targets, torch.tensor([[-1.0, -1], [0, 0], [2, 1]]))
    torch.testing.assert_close(head.predict(targets)[2], labels[2])
    other = RegressionHead(2, 4)
    other.load_state_dict(head.state_dict())  # a checkpoint knows the units
    torch.testing.assert_close(other.predict(targets), head.predict(targets))


def test_large_labels_keep_their_differences():
    """Time stamps in milliseconds, where neighbouring float32 numbers are two minutes apart."""
    stamps = 1.7e12 + np.array([[0.0], [250.0], [500.0], [750.0]])
    samples = [MultiTaskDataSample(gt=dict(at=torch.from_numpy(stamp))) for stamp in stamps]
    task = ValueTask("at", dict(kind="values", names=["at"]))
    batch = MultiTaskBatch.of(samples, dict(at=task))
    head = RegressionHead(1, 4, mean=stamps.mean(0), std=stamps.std(0))
    found = head.prepare(batch.targets["at"], batch.masks["at"])
    assert found.dtype == torch.float32
    expected = (stamps - stamps.mean(0)) / stamps.std(0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert [label.tolist() for label in batch.labels("at")] == stamps.tolist()
    assert "mean_rest" not in head.state_dict()


def test_predictions_coarser_than_the_labels_give_a_warning(logged):
    names = ["at", "age", "height"]
    head = RegressionHead(3, 4, mean=[1e12, 40, 7], std=[1e5, 12, 0], names=names)
    (line,) = logged().splitlines()
    assert "predictions of at have steps of 6.6e+04" in line
    assert "subtract an offset in the CSV" in line
    assert "age" not in line
    assert "height" not in line  # labels that are all alike
    near = head.predict(torch.tensor([[0.1, 0, 0], [0.2, 0, 0]]))[:, 0]
    assert near[0] == near[1]  # what the warning is about
    RegressionHead(1, 4, mean=[1.7e9], std=[86400.0])
    assert len(logged().splitlines()) == 1


def test_values_are_standardised_by_the_training_labels():
    model = build(heads=dict(age=dict(type="RegressionHead", num_values=2)), neck=False)
    head = model.heads["age"]
    with pytest.raises(ConfigError, match="taken from the training labels"):
        head.loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"heads\.age\.mean: .*found SimpleNamespace"):
        model.fit_to_labels(SimpleNamespace())
    with pytest.raises(ConfigError, match="has no labels"):
        model.fit_to_labels(SimpleNamespace(labels_of=lambda task: np.zeros((0, 2))))
    labels = np.array([[21.0, 5], [39, 5]])
    model.fit_to_labels(SimpleNamespace(labels_of=lambda task: labels))
    assert head.mean.tolist() == [30, 5]
    assert head.std.tolist() == [9, 1]  # labels that are all alike
    given = RegressionHead(1, 4, mean=[1.0], std=[2.0])
    given.fit_to_labels("age", None)
    assert given.mean.tolist() == [1]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ClassificationHead, dict(class_weights=(1, 2, 3)), "expected 2 numbers >= 0, found"),
        (ClassificationHead, dict(names=("a", "b", "c")), "expected 2 names, found 3"),
        (LandmarkHead, dict(loss="wings"), r"LandmarkHead\.loss: expected .* found 'wings'"),
        (RegressionHead, dict(mean=[1.0, 2]), "expected mean and std, or neither"),
        (RegressionHead, dict(mean=[1.0], std=[1.0]), "expected 2 finite numbers each"),
        (RegressionHead, dict(mean=[1.0, 2], std=[1.0, -1]), "std not negative"),
        *(
            (AttributeHead, dict(pos_weight=value), "expected 'balanced' or 2 numbers > 0")
            for value in ("balance", [1.0], [1.0, 0.0], [1.0, float("nan")], 2.0)
        ),
    ],
)
def test_options_are_checked(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(2, 4, **options)
