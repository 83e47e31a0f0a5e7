"""Models that torch.fx cannot trace are cut by replay, with the same result."""

import copy
import pickle

import pytest
import torch
from builders import trunk, uncut

from trn_plugin.errors import ConfigError
from trn_plugin.models import TimmTrunk, _cut_trunk
from trn_plugin.models._replay import ReplayTrunk
from trn_plugin.models._tracing import CannotTrace

X = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def untraceable(monkeypatch):
    def refuse(*_, **__):
        raise CannotTrace("torch.fx: no")

    monkeypatch.setattr(_cut_trunk, "cut", refuse)


def build(name, shared, **options):
    return trunk(name, shared, tasks=("a", "b", "c"), **options)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("shared", [1, -1, dict(a=1, b=3, c=3), dict(a=2, b="all", c="all")])
def test_every_path_is_the_uncut_model(untraceable, name, shared):
    options = dict(drop_path_rate=0.3)
    model = build(name, shared, **options)
    assert isinstance(model.trunk, ReplayTrunk)
    whole = uncut(name, **options)
    for training in (False, True):
        for task in model.tasks:
            torch.manual_seed(1)
            expected = whole.train(training)(X)
            torch.manual_seed(1)
            assert torch.allclose(model.train(training).path(task, X), expected, atol=1e-5)
        model.load_state_dict(build(name, shared, **options).state_dict())
    sum(features.sum() for features in model(X).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    own = set(whole.state_dict())
    for task in model.tasks:
        assert set(model.trunk.state_dict()) | set(model.tails[task].state_dict()) == own


def test_modules_run_once_and_copies_are_independent(untraceable):
    model = build("test_resnet", -1).eval()
    calls = []
    for part in (model.trunk, *model.tails.values()):
        for module in part.modules():
            if isinstance(module, torch.nn.Conv2d) and module.weight is not None:
                module.register_forward_hook(lambda m, *_: calls.append(m))
    before = model(X)["b"]
    assert len(set(calls)) == len(calls) > 0
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(build("test_resnet", -1)))):
        with torch.no_grad():
            for p in twin.parameters():
                p.zero_()
        assert torch.equal(model(X)["b"], before)
        assert not torch.equal(twin.eval()(X)["b"], before)


def test_frozen_stages_stay_in_eval_mode(untraceable):
    model = build("test_resnet", -1, frozen_stages=2)
    before = {k: v.clone() for k, v in model.named_buffers()}
    model.train()(X)
    moved = {k.split(".")[1] for k, v in model.named_buffers() if not torch.equal(v, before[k])}
    assert moved == {"layer2", "layer3", "a", "b", "c"}


class Choosing(torch.nn.Module):
    """Branches on values of its pictures, which cannot be traced, and works in place."""

    pretrained_cfg: dict = {}
    feature_info = [dict(module="first"), dict(module="second"), dict(module="third")]

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.shift = torch.nn.Parameter(torch.zeros(1))
        self.first = torch.nn.Conv2d(3, 4, 3)
        self.second = torch.nn.Conv2d(4, 4, 1)
        self.third = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Conv2d(4, 2, 3))

    def forward(self, x):
        x = self.first(x * self.scale)
        x = self.second(x)
        if x.mean() > 100:
            x = x - 1
        return self.third(x).mean((2, 3)) + self.shift


def test_an_untraceable_model_is_cut(monkeypatch):
    torch.manual_seed(0)
    whole = Choosing()
    monkeypatch.setattr("trn_plugin.models.trunk.create", lambda *_: (whole, (16, 16), {}))
    reference = copy.deepcopy(whole)
    model = TimmTrunk("choosing", tasks=("a", "b"))
    assert isinstance(model.trunk, ReplayTrunk)
    x = torch.randn(2, 3, 16, 16)
    for features in model(x).values():
        assert torch.allclose(features, reference(x), atol=1e-6)
    names = {name for name, _ in model.named_parameters()}
    assert {"trunk.scale", "tails.a.shift", "tails.b.shift"} <= names
    assert not names & {"trunk.shift", "tails.a.scale"}
    sum(features.sum() for features in model(x).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ConfigError, match=r"grad_checkpointing: choosing cannot be traced"):
        TimmTrunk("choosing", tasks=("a", "b"), grad_checkpointing=True)


@pytest.mark.parametrize("shared", [0, "all"])
def test_timms_checkpointing_of_untraceable_models(shared):
    def gradients(**options):
        model = trunk("test_vit", shared, tasks=("a",), patch_drop_rate=0.25, **options)
        torch.manual_seed(1)
        model(torch.ones(2, 3, 64, 64))["a"].square().mean().backward()
        return {name: p.grad for name, p in model.named_parameters()}

    expected = gradients()
    for name, gradient in gradients(grad_checkpointing=True).items():
        assert torch.allclose(gradient, expected[name], atol=1e-6), name


def test_exporting_replayed_parts_is_refused():
    model = TimmTrunk("test_vit", tasks=("a", "b"), img_size=64, patch_drop_rate=0.25).eval()
    assert isinstance(model.trunk, ReplayTrunk)
    with pytest.raises(ConfigError, match=r"cannot be exported in parts; set model\.backbone"):
        torch.export.export(model, (torch.ones(2, 3, 64, 64),), strict=False)


def test_untraceable_models_give_no_map(untraceable):
    with pytest.raises(ConfigError, match=r"test_vit cannot be traced .* input='map'"):
        build("test_vit", -1, maps=("a",))
