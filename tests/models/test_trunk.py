import copy

import pytest
import torch
from builders import trunk, uncut

from trn_plugin.errors import CheckpointError, ConfigError
from trn_plugin.models import TimmTrunk

TASKS = ("a", "b")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "resnet18"])
@pytest.mark.parametrize("shared", [0, 1, 2, -1, "all"])
@pytest.mark.parametrize("training", [False, True])
def test_every_path_is_the_uncut_model(name, shared, training):
    cut_model, model = trunk(name, shared).train(training), uncut(name).train(training)
    x = torch.randn(3, 3, 64, 64)
    expected = model(x)
    for task, features in cut_model(x).items():
        assert features.shape == (3, cut_model.num_features), task
        assert torch.allclose(features, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_random_layers_follow_the_mode(training):
    options = dict(drop_path_rate=0.4, proj_drop_rate=0.3)
    cut_model = trunk("test_vit", 3, **options).train(training)
    model = uncut("test_vit", **options).train(training)
    x = torch.randn(4, 3, 64, 64)
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    (shared,) = cut_model.trunk(x)
    ((features,),) = cut_model.tails["a"](*shared)
    assert torch.allclose(features, expected, atol=1e-5)
    again = cut_model(x)["a"]
    assert torch.equal(again, cut_model(x)["a"]) != training


@pytest.mark.parametrize("shared", [0, -1, "all"])
def test_parameter_names_are_timms_own(shared):
    own = {name for name, _ in uncut("test_resnet").named_parameters()}
    names = {name for name, _ in trunk(shared=shared).named_parameters()}
    stripped = {
        name.removeprefix("trunk.").removeprefix("tails.a.").removeprefix("tails.b.")
        for name in names
    }
    assert stripped == own
    expected = {0: 2 * len(own), "all": len(own)}
    assert len(names) == expected.get(shared, len(names))
    assert len(own) <= len(names) <= 2 * len(own)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_every_parameter_has_a_gradient_and_tails_are_independent(name):
    model = trunk(name, -1)
    features = model(torch.randn(4, 3, 64, 64))
    features["a"].square().sum().backward(retain_graph=True)
    for path, p in model.named_parameters():
        assert (p.grad is None) == path.startswith("tails.b."), path
    features["b"].square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    storages = [p.data_ptr() for p in model.parameters()]
    assert len(set(storages)) == len(storages)


def test_building_keeps_random_state_and_statistics():
    """The comparison with the uncut model changes neither random state nor batch statistics."""
    torch.manual_seed(0)
    model = uncut("test_resnet")
    after = torch.random.get_rng_state()
    cut_model = trunk("test_resnet")
    assert torch.equal(torch.random.get_rng_state(), after)
    assert torch.equal(cut_model.trunk.bn1.running_mean, model.bn1.running_mean)
    assert cut_model.training
    assert cut_model.trunk.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="resnet19"), r"timm knows no 'resnet19'; close matches: .*resnet18"),
        (dict(name="resnet18", shared=6), r"shared_stages: expected 0, 'all', .*3 \(layer2\).* 6"),
        (dict(shared="most"), "shared_stages: expected"),
        (dict(shared=-6), "shared_stages: expected"),
        (dict(shared=True), "shared_stages: expected"),
        (dict(bananas=3), "cannot build test_resnet: .*bananas"),
        (dict(name="test_vit", size=(64, 64, 3)), r"img_size: expected \(height, width\)"),
        (dict(global_pool=""), "pooled features"),
    ],
)
def test_errors_say_what_was_expected(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        trunk(**options)
    assert "\n" not in str(error.value)


def test_local_weights_are_loaded(tmp_path):
    source = uncut("test_resnet")
    with torch.no_grad():
        for p in source.parameters():
            p.add_(0.25)
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    loaded = trunk(checkpoint_path=str(path))
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(loaded.eval()(x)["b"], source.eval()(x), atol=1e-5)
    with pytest.raises(CheckpointError, match=r"absent\.pth"):
        trunk(checkpoint_path=str(tmp_path / "absent.pth"))
    with pytest.raises(ConfigError, match=r"weights\.pth holds no weights of test_vit"):
        trunk("test_vit", checkpoint_path=str(path))


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_resnet"])
def test_norms_keep_their_class_and_constants_are_no_state(name):
    kinds = (torch.nn.LayerNorm, torch.nn.BatchNorm2d)
    count = sum(isinstance(m, kinds) for m in uncut(name).modules())
    model = trunk(name, -1)
    parts = (model.trunk, model.tails["b"])
    assert sum(isinstance(m, kinds) for part in parts for m in part.modules()) == count
    assert not [key for key in model.state_dict() if "_tensor_constant" in key]


class InPlace(torch.nn.Module):
    """Its last stage changes the output of the stage before in place."""

    pretrained_cfg: dict = {}
    feature_info = [dict(module="first"), dict(module="second")]

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3)
        self.second = torch.nn.Sequential(torch.nn.ReLU(inplace=True), torch.nn.Conv2d(4, 2, 3))

    def forward(self, x, mask=None):
        x = self.first(x)
        if mask is not None:
            x = x * mask
        skip = x
        x = self.second(x)
        return x.mean((2, 3)) + skip.mean((1, 2, 3))[:, None]


def test_tails_do_not_change_what_they_share(monkeypatch):
    torch.manual_seed(0)
    model = InPlace()
    monkeypatch.setattr("trn_plugin.models.trunk.create", lambda *_: (model, (16, 16), {}))
    reference = copy.deepcopy(model)
    cut_model = TimmTrunk("in_place", tasks=TASKS)
    x = torch.randn(2, 3, 16, 16)
    for task, features in cut_model(x).items():
        assert torch.allclose(features, reference(x), atol=1e-6), task
    cut_model(x)["b"].sum().backward()


def test_lists_of_blocks_and_misnamed_stages_can_be_cut():
    """Twins and MViTv2 call their stages 'block', and Twins's stage is a list of blocks."""
    model = trunk("twins_pcpvt_small", -1)
    assert model.stages == tuple(f"blocks.{i}" for i in range(4))
    own = {name for name, _ in model.tails["b"].named_parameters()}
    assert any(name.startswith("blocks.3.") for name in own)
    assert not any(name.startswith("blocks.2.") for name in own)
