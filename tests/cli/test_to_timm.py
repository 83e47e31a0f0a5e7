"""Convert weights between plain timm models and cut ones."""

import pytest
import timm
import torch

from trn_plugin import cli
from trn_plugin.checkpoints import save_checkpoint_file
from trn_plugin.errors import ConfigError
from trn_plugin.models import TimmTrunk
from trn_plugin.registry import MODELS

CONFIG = """
default_scope = "trn_plugin"
input_size = 64
model = dict(
    type="MultiTaskModel",
    backbone=dict(type="TimmTrunk", model_name="test_vit", drop_path_rate=0.1, channels_last=True),
    heads=dict(
        landmarks=dict(type="LandmarkHead", num_points=5),
        pose=dict(type="ClassificationHead", num_classes=3),
    ),
)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config, and a checkpoint in which every weight has changed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.py").write_text(CONFIG)
    model = MODELS.build(cli.load_config(str(folder / "config.py"), None).model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_checkpoint_file({"state_dict": model.state_dict(), "meta": {}}, folder / "last.pth")
    return folder, model.eval()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("task", ["landmarks", "pose"])
def test_trunk_and_tail_convert_to_a_timm_model_and_back(trained, tmp_path, run_tool, suffix, task):
    folder, model = trained
    out = tmp_path / f"weights.{suffix}"
    arguments = (folder / "config.py", folder / "last.pth", out, "--task", task)
    status, printed, error = run_tool("to_timm", *arguments)
    assert status == 0, error
    assert "differ by at most" in printed
    x = torch.randn(3, 3, 64, 64)
    plain = eval(printed.splitlines()[-1], {"timm": timm}).eval()  # as the tool says
    with torch.no_grad():
        expected = model.backbone(x)[task]
        assert torch.allclose(plain(x), expected, atol=1e-5)
        back = TimmTrunk(
            "test_vit", checkpoint_path=str(out), tasks=("a", "b"), img_size=64, shared_stages=2
        ).eval()
        for features in back(x).values():
            assert torch.allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shared", "task"),
    [(dict(a=1, b=3, c=3), "a"), (dict(a=1, b=3, c=3), "c"), (0, "b"), ("all", "a")],
)
def test_a_task_loads_its_own_weights_back(shared, task):
    trunk = TimmTrunk("test_resnet", shared_stages=shared, tasks=("a", "b", "c"), img_size=64)
    with torch.no_grad():
        for p in trunk.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(trunk.to_timm(task)(x), trunk.eval()(x)[task], atol=1e-5)


def test_mistakes_are_one_line_errors(trained, tmp_path, run_tool):
    folder, model = trained
    files = (folder / "config.py", folder / "last.pth")
    for out, task, message in (
        ("weights.txt", "pose", "ends in .safetensors or .pth"),
        (tmp_path / "w.pth", "smile", "expected one of landmarks, pose, found 'smile'"),
    ):
        status, _, error = run_tool("to_timm", *files, out, "--task", task)
        assert status == 2
        assert message in error
    with torch.no_grad():
        model.backbone.tails["pose"].norm.weight.fill_(float("nan"))
    with pytest.raises(ConfigError, match="no uncut model has the features of pose"):
        model.backbone.to_timm("pose")
