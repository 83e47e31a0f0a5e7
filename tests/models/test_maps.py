"""The map before pooling, for heads with ``input = "map"``."""

import copy

import builders
import pytest
import torch
from builders import batch, build, uncut

from trn_plugin.errors import ConfigError
from trn_plugin.models import TimmTrunk
from trn_plugin.models.heads import TaskHead
from trn_plugin.registry import MODELS
from trn_plugin.tasks import ValueTask

X = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def trunk(name, shared=-1, maps=("a",), **options):
    return builders.trunk(name, shared, maps=maps, size=(64, 96), **options)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_mambaout"])
@pytest.mark.parametrize("shared", [0, -1, "all", dict(a=2, b="all")])
def test_maps_are_those_of_the_uncut_model(name, shared):
    """Tokens are in the order of timm's maps; the pooled vector is unchanged."""
    model, plain = trunk(name, shared).eval(), trunk(name, shared, ()).eval()
    whole = uncut(name, (64, 96))
    features = model.features(X)
    assert set(features.maps) == {"a"}
    expected = whole.eval().forward_intermediates(X, indices=1, norm=True, intermediates_only=True)[
        -1
    ]
    assert (
        features.maps["a"].shape == expected.shape == (3, model.map_features, *expected.shape[2:])
    )
    assert torch.allclose(features.maps["a"], expected, atol=1e-5)
    for task, hidden in plain(X).items():
        assert torch.allclose(features.hidden[task], hidden, atol=1e-5)
    assert {n for n, _ in model.named_parameters()} == {n for n, _ in plain.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [dict(channels_last=True), dict(grad_checkpointing=True), dict(frozen_stages=2)],
    ids=lambda options: next(iter(options)),
)
def test_maps_with_other_options(options):
    model, plain = trunk("test_resnet", **options).eval(), trunk("test_resnet").eval()
    maps = [each.features(X).maps["a"] for each in (model, plain)]
    assert torch.allclose(*maps, atol=1e-5)
    for each in maps:
        each.square().mean().backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    for name in names:
        expected = plain.get_parameter(name).grad
        assert torch.allclose(model.get_parameter(name).grad, expected, atol=1e-4), name
    assert any(name.startswith("tails.a.") for name in names)
    assert not any(name.startswith("tails.b.") for name in names)


@pytest.mark.parametrize("shared", [-1, "all"])
def test_a_trunk_with_maps_compiles_as_one_graph(shared):
    torch._dynamo.reset()
    model = trunk("test_vit", shared)
    compiled = torch.compile(model.features, backend="eager", fullgraph=True)
    expected = copy.deepcopy(model).features(X)
    assert torch.allclose(compiled(X).maps["a"], expected.maps["a"], atol=1e-5)


def test_a_trunk_with_maps_goes_back_to_timm():
    model = trunk("test_resnet").eval()
    assert torch.allclose(model.to_timm("a")(X), model(X)["a"], atol=1e-5)


class NoGrid(torch.nn.Module):
    """Returns tokens that form no grid over the picture."""

    pretrained_cfg: dict = {}
    feature_info = [dict(module="first", reduction=8)]

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3)

    def forward_features(self, x):
        return self.first(x).flatten(2).transpose(1, 2)

    def forward(self, x):
        return self.forward_features(x).mean(1)


class InPlace(NoGrid):
    """Pooling changes the map in place."""

    def forward_features(self, x):
        return self.first(torch.nn.functional.pad(x, (1, 1, 1, 1)))

    def forward(self, x):
        return self.forward_features(x).relu_().mean((2, 3))


class NoFeatures(torch.nn.Sequential):
    """Has no ``forward_features``."""

    pretrained_cfg: dict = {}
    feature_info = [dict(module="0")]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (NoGrid(), r"gives \(1, 756, 4\) before pooling, where a map or tokens of a grid"),
        (InPlace(), r"the map before pooling of it is off by .* in place"),
        (NoFeatures(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
         r"it cannot be traced \(it has no forward_features, .*input='map'"),
    ],
    ids=["no grid", "in place", "no features"],
)  # fmt: skip
def test_models_without_a_map_are_refused(monkeypatch, model, message):
    monkeypatch.setattr("trn_plugin.models.trunk.create", lambda *_: (model, (20, 44), {}))
    with pytest.raises(ConfigError, match=message):
        TimmTrunk("it", tasks=("a",), maps=("a",), shared_stages="all")


@MODELS.register_module()
class CentreHead(TaskHead):
    """Predicts from the centre of the map, or from the vector."""

    task_type = ValueTask

    def __init__(self, in_features, **kwargs):
        super().__init__(2, in_features, **kwargs)

    def forward(self, features):
        self.seen = features.shape
        return self.fc(features[:, :, 1, 1] if self.input == "map" else features)

    def sample_loss(self, output, targets):
        return (output - targets).square().mean(1)

    def predict(self, output):
        return output


def test_a_head_asks_for_the_map_in_its_config():
    heads = {
        "a": dict(type="CentreHead", input="map"),
        "b": dict(type="CentreHead"),
        "c": dict(type=CentreHead, input="map"),
    }
    model = build(heads=heads, relations=[("a", "b")])
    x, _ = batch(4)
    model(x)
    seen = {task: tuple(head.seen) for task, head in model.heads.items()}
    width = model.backbone.num_features
    assert seen == dict(a=(4, width, 2, 2), b=(4, width), c=(4, width, 2, 2))
    with pytest.raises(ConfigError, match=r"heads\.a\.input: expected 'vector' or 'map', found 3"):
        build(heads=dict(a=dict(type="CentreHead", input=3)), neck=False)


@pytest.mark.parametrize(
    ("kind", "takes"), [("LandmarkHead", "vector"), ("HeatmapLandmarkHead", "map")]
)
def test_heads_take_their_own_input_and_no_other(kind, takes):
    def model_with(given):
        return build(heads=dict(a=dict(type=kind, num_points=1, input=given)), neck=False)

    assert model_with(takes).heads["a"].input == takes
    with pytest.raises(ConfigError, match=rf"heads\.a\.input: {kind} takes the {takes}"):
        model_with("map" if takes == "vector" else "vector")
