import pytest
import torch

from trn_plugin.errors import ConfigError, DataError
from trn_plugin.models import AttributeHead, ClassificationHead, LandmarkHead

HEADS = [
    (LandmarkHead(5, 8), torch.rand(5, 2)),
    (ClassificationHead(5, 8), torch.tensor(3)),
    (AttributeHead(3, 8), torch.tensor([0.0, 1, 1])),
]


@pytest.mark.parametrize(("head", "label"), HEADS)
def test_missing_labels_give_no_loss_and_no_gradient(head, label):
    hidden = torch.randn(4, 8)
    labels = [label, None, label, None]
    hidden[1] = float("nan")  # what an unlabelled sample holds must not matter
    hidden.requires_grad_()
    targets, mask = head.encode(labels, hidden.device)
    loss = head.loss(head(hidden), targets, mask)
    (g,) = torch.autograd.grad(loss, hidden)
    assert mask.tolist() == [True, False, True, False]
    assert g[mask].abs().sum() > 0
    assert not g[3].any()
    some, all_of_them = head.encode([label, label], hidden.device)
    assert loss.item() == pytest.approx(
        head.loss(head(hidden[mask]), some, all_of_them).item(), rel=1e-6
    )


@pytest.mark.parametrize(("head", "label"), HEADS)
def test_no_label_at_all_gives_zero(head, label):
    hidden = torch.randn(4, 8, requires_grad=True)
    targets, mask = head.encode([None] * 4, hidden.device)
    loss = head.loss(head(hidden), targets, mask)
    assert loss == 0
    assert not torch.autograd.grad(loss, hidden)[0].any()


@pytest.mark.parametrize(("head", "label"), HEADS)
def test_training_on_one_label_predicts_it(head, label):
    hidden = torch.randn(1, 8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.003)
    for _ in range(1500):
        targets, mask = head.encode([label], hidden.device)
        optimizer.zero_grad()
        head.loss(head(hidden), targets, mask).backward()
        optimizer.step()
    pred = head.predict(head(hidden))[0]
    if head.kind == "class":
        assert pred.argmax() == label
        assert pred.sum().item() == pytest.approx(1)
    else:
        assert torch.allclose(pred, label, atol=0.05)


@pytest.mark.parametrize(
    ("head", "label", "message"),
    [
        (HEADS[0][0], torch.rand(4, 2), r"shape \(5, 2\), finite, got shape \(4, 2\)"),
        (HEADS[0][0], torch.full((5, 2), float("nan")), "finite"),
        (HEADS[1][0], torch.tensor(5), r"one class index 0\.\.4, got 5"),
        (HEADS[1][0], torch.tensor(-1), "got -1"),
        (HEADS[2][0], torch.tensor([0.0, 1]), "3 values 0 or 1"),
        (HEADS[2][0], torch.tensor([0.0, 1, -1]), "3 values 0 or 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(head, label, message):
    with pytest.raises(DataError, match=message):
        head.encode([label], torch.device("cpu"))


def test_class_weights_scale_the_loss_of_a_class():
    torch.manual_seed(0)
    head = ClassificationHead(3, 8)
    weighted = ClassificationHead(3, 8, class_weights=(1.0, 2.0, 0.0))
    weighted.load_state_dict(head.state_dict())
    hidden = torch.randn(3, 8)
    targets, _ = head.encode([torch.tensor(i) for i in range(3)], "cpu")
    plain, other = (h.sample_loss(h(hidden), targets) for h in (head, weighted))
    assert torch.allclose(other, plain * torch.tensor([1.0, 2.0, 0.0]))


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match="expected 5 numbers >= 0, got"):
        ClassificationHead(5, 8, class_weights=(1, 2))
    with pytest.raises(ConfigError, match=r"LandmarkHead\.loss: expected one of .* got 'wings'"):
        LandmarkHead(5, 8, loss="wings")
    with pytest.raises(ConfigError, match="expected 5 names, got 2"):
        ClassificationHead(5, 8, names=("a", "b"))
