"""Models that timm finds in a folder or on a hub, and files that its scripts write."""

import argparse
import json
from pathlib import Path

import pytest
import timm
import torch
from builders import model_config
from safetensors.torch import save_file

from trn_plugin.errors import ConfigError
from trn_plugin.models import TimmTrunk
from trn_plugin.registry import MODELS

X = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def trained(name="test_resnet", **options):
    torch.manual_seed(3)
    return timm.create_model(name, num_classes=4, **options).eval()


def folder_of(path, name, model, args=None):
    """A folder as timm writes it for the hub."""
    path.mkdir()
    save_file(model.state_dict(), path / "model.safetensors")
    keys = ("mean", "std", "classifier", "first_conv", "fixed_input_size")
    shape = {key: model.pretrained_cfg[key] for key in keys if key in model.pretrained_cfg}
    shape |= dict(input_size=[3, 64, 64], num_classes=4)
    config = dict(architecture=name, num_classes=4, pretrained_cfg=shape, model_args=args or {})
    (path / "config.json").write_text(json.dumps(config))
    return f"local-dir:{path}"


def features(model, x=X):
    return model.forward_head(model.forward_features(x), pre_logits=True)


@pytest.mark.parametrize(
    ("name", "options", "args"),
    [
        ("test_resnet", {}, {}),
        ("test_vit", dict(img_size=64), dict(img_size=64)),
        ("test_resnet", dict(global_pool="max"), dict(global_pool="max")),
    ],
)
def test_a_folder_is_a_model(tmp_path, name, options, args):
    source = trained(name, **options)
    given = folder_of(tmp_path / "model", name, source, args)
    model = TimmTrunk(given, pretrained=True, tasks=("a",), shared_stages="all").eval()
    assert model.img_size == (64, 64)
    expected = features(source)
    assert torch.allclose(model(X)["a"], expected, atol=1e-5)
    assert torch.allclose(model.to_timm("a")(X), expected, atol=1e-5)


def test_a_folder_with_weights_of_another_model_is_refused(tmp_path):
    given = folder_of(tmp_path / "model", "test_resnet", trained(), {})
    save_file(trained("test_vit").state_dict(), tmp_path / "model" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"pretrained: .* another model's"):
        TimmTrunk(given, pretrained=True, tasks=("a",), shared_stages="all")


def test_a_file_of_nan_is_refused(tmp_path):
    state = trained().state_dict()
    state["conv1.0.weight"].fill_(torch.nan)
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ConfigError, match=r"nan\.pth: conv1\.0\.weight not finite"):
        TimmTrunk("test_resnet", checkpoint_path=str(tmp_path / "nan.pth"), tasks=("a",))


def test_a_weights_file_takes_precedence_over_the_folder(tmp_path):
    source = trained()
    given = folder_of(tmp_path / "model", "test_resnet", trained(), {})
    torch.save({k: v + 1 for k, v in source.state_dict().items()}, tmp_path / "other.pth")
    other = str(tmp_path / "other.pth")
    model = TimmTrunk(given, checkpoint_path=other, tasks=("a",), shared_stages="all")
    assert torch.equal(model.trunk.state_dict()["conv1.0.weight"], source.conv1[0].weight + 1)
    fresh = TimmTrunk(given, tasks=("a",), shared_stages="all")
    assert not torch.equal(fresh.trunk.state_dict()["conv1.0.weight"], source.conv1[0].weight)


@pytest.mark.parametrize("name", ["local-dir:/no/where", "nowhere:model", "hf-hub:"])
def test_a_missing_source_is_refused(name):
    with pytest.raises(ConfigError, match=r"model_name: expected 'local-dir:FOLDER'.*") as caught:
        TimmTrunk(name, tasks=("a",))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_refused(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConfigError, match=r"'hf-hub:timm/resnet18\.a1_in1k' \(.*no network\)"):
        TimmTrunk("hf-hub:timm/resnet18.a1_in1k", tasks=("a",))


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("kind", ["training", "safetensors"])
def test_files_of_timms_scripts(tmp_path, prefix, kind):
    source = trained()
    state = {prefix + name: value for name, value in source.state_dict().items()}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth.tar")
    if kind == "safetensors":
        save_file(state, path)
    else:
        args = argparse.Namespace(model="test_resnet", lr=0.1, output=Path("out"))
        raw = {name: torch.zeros_like(value) for name, value in state.items()}
        torch.save(dict(epoch=3, state_dict=raw, state_dict_ema=state, args=args), path)
    options = dict(tasks=("a",), img_size=64, shared_stages="all")
    model = TimmTrunk("test_resnet", checkpoint_path=str(path), **options).eval()
    assert torch.allclose(model(X)["a"], features(source), atol=1e-5)


@pytest.mark.parametrize(("channels", "values"), [(1, None), (1, 1), (4, 4), (3, 1)])
def test_channels_other_than_three_are_refused(channels, values):
    config = model_config()
    config.backbone.in_chans = channels
    if values is not None:
        config.data_preprocessor = dict(
            type="MultiTaskDataPreprocessor", mean=[127.0] * values, std=[60.0] * values
        )
    if channels == 3:
        message = f"data_preprocessor: .* 3 channels, found {values}"
    else:
        message = rf"in_chans: expected 3 \(RGB\), found {channels}"
    with pytest.raises(ConfigError, match=message):
        MODELS.build(config)
