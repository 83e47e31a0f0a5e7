"""Our trunk in another project's model, and another project's backbone in ours."""

import pytest
import timm
import torch
from builders import batch, build
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry
from torch import nn

from trn_plugin.errors import CheckpointError, ConfigError
from trn_plugin.models import TimmTrunk
from trn_plugin.registry import MODELS

ELSEWHERE = Registry("model", parent=ROOT, scope="elsewhere")
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@ELSEWHERE.register_module()
class Norm(nn.BatchNorm2d):
    """Found by its name in its own project's scope."""


@ELSEWHERE.register_module()
class ResNet(BaseModule):
    """Returns a tuple of maps, as mmpretrain's does."""

    def __init__(self, width=8, gives="maps", init_cfg=None):
        super().__init__(init_cfg)
        self.stem = nn.Conv2d(3, width, 3, 4, 1)
        self.norm = ELSEWHERE.build(dict(type="Norm", num_features=width))
        self.body = nn.Conv2d(width, 2 * width, 3, 4, 1)
        self.gives, self.initialised = gives, False

    def init_weights(self):
        super().init_weights()
        self.initialised = True

    def forward(self, x):
        first = self.norm(self.stem(x)).relu()
        last = self.body(first)
        outs = dict(maps=(first, last), map=last, vector=last.mean((2, 3)))
        return outs.get(self.gives, self.gives)


@ELSEWHERE.register_module()
class Classifier(nn.Module):
    """A backbone, global pooling and a linear layer, as in mmpretrain."""

    def __init__(self, backbone, in_channels):
        super().__init__()
        self.backbone = ELSEWHERE.build(backbone)
        self.fc = nn.Linear(in_channels, 3)

    def forward(self, x):
        pooled = tuple(value.mean((2, 3)) for value in self.backbone(x))
        return self.fc(pooled[-1])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_timm_trunk_gives_maps_to_another_model(name):
    options = dict(type="trn_plugin.TimmTrunk", model_name=name, img_size=64, frozen_stages=1)
    trunk = ELSEWHERE.build(dict(options, out_indices=(1, -1))).eval()
    maps = trunk(X)
    whole = timm.create_model(name, num_classes=0, **({"img_size": 64} if "vit" in name else {}))
    whole.load_state_dict(trunk.trunk.state_dict(), strict=False)
    expected = whole.eval().forward_intermediates(
        X, indices=[1, len(trunk.stages) - 1], norm=True, intermediates_only=True
    )
    for found, value in zip(maps, expected, strict=True):
        assert torch.equal(found, value)
    model = ELSEWHERE.build(
        dict(
            type="elsewhere.Classifier",
            _scope_="elsewhere",
            backbone=dict(options, out_indices=[-1]),
            in_channels=maps[1].shape[1],
        )
    )
    model(X).sum().backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {n for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "expected tasks, which MultiTaskModel passes, or out_indices .* neither"),
        (dict(tasks=("a",), out_indices=(-1,)), "found both"),
        (
            dict(out_indices=(7,)),
            r"out_indices: expected stages of test_resnet \[0 \(.*found \(7,\)",
        ),
    ],
)
def test_out_indices_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        TimmTrunk("test_resnet", **options)


def shared_whole(heads=None, neck=False, levels=("output",), **backbone):
    config = dict(type="elsewhere.ResNet", **backbone)
    return build(heads=heads, neck=neck, levels=levels, backbone=config)


@pytest.mark.parametrize("gives", ["maps", "map", "vector"])
def test_a_backbone_of_another_registry_is_shared_whole(gives):
    model = shared_whole(neck=True, gives=gives, shared_stages="all", img_size=32)
    assert model.backbone.num_features == 16
    assert model.backbone.img_size == (32, 32)
    assert model.backbone.trunk.initialised
    x, samples = batch(4)
    losses = model(x, samples, "loss")
    sum(value for key, value in losses.items() if "loss" in key).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model(x, samples, "predict")[0].pred["landmarks"].shape == (5, 2)


def test_heads_take_the_map_of_a_whole_backbone():
    heads = dict(
        landmarks=dict(type="HeatmapLandmarkHead", num_points=5, channels=4),
        pose=dict(type="ClassificationHead", num_classes=5),
    )
    model = shared_whole(heads)
    assert model.backbone.features(X).maps["landmarks"].shape == (2, 16, 4, 4)
    assert model(X)["landmarks"].shape == (2, 10)
    with pytest.raises(ConfigError, match=r"gives \(2, 16\); .* which the head of landmarks takes"):
        shared_whole(heads, gives="vector")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(shared_stages=-1), "ResNet is not a TimmTrunk and is shared whole; .* found -1"),
        (dict(gives="text"), r"ResNet gives str; expected a map \(N, C, h, w\) or vector"),
        (dict(neck=True, levels=("body",)), "'body' is not a separate module for each task"),
        (dict(neck=True, levels=("hidden",)), "'hidden' relates a feature to itself"),
        (dict(init_cfg=dict(type="Pretrained", checkpoint="a.pth")), "checkpoint_path"),
        (dict(img_size="large"), "img_size: expected"),
    ],
)
def test_unsupported_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        shared_whole(**options)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="not a timm model"):
        shared_whole().backbone.to_timm("pose")


def test_weights_of_the_other_project_are_loaded(tmp_path):
    source = ELSEWHERE.build(dict(type="ResNet", _scope_="elsewhere"))
    state = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    path = tmp_path / "other.pth"
    torch.save(dict(state_dict={**state, "head.fc.weight": torch.zeros(3, 16)}), path)
    model = shared_whole(checkpoint_path=str(path))
    for name, value in source.state_dict().items():
        assert torch.equal(model.backbone.trunk.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="another model"):
        shared_whole(width=4, checkpoint_path=str(path))


def test_a_model_of_ours_is_built_by_their_registry():
    config = dict(
        type="trn_plugin.MultiTaskModel",
        backbone=dict(type="elsewhere.ResNet"),
        heads=dict(pose=dict(type="ClassificationHead", num_classes=5)),
    )
    assert ELSEWHERE.build(config)(X)["pose"].shape == (2, 5)
    assert MODELS.build(config)(X)["pose"].shape == (2, 5)
