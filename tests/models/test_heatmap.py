"""Landmarks as the centres of heatmaps."""

import numpy as np
import pytest
import torch
from builders import batch, build

from trn_plugin.deploy.describe import describe_model
from trn_plugin.deploy.export import export_onnx
from trn_plugin.deploy.model import DeployModel
from trn_plugin.deploy.precision import in_float16
from trn_plugin.errors import ConfigError
from trn_plugin.models import HeatmapLandmarkHead
from trn_plugin.models.heads.heatmap import soft_argmax

HEADS = dict(
    landmarks=dict(type="HeatmapLandmarkHead", num_points=5, channels=16, loss_weight=10.0),
    pose=dict(type="ClassificationHead", num_classes=5),
)


def peaked(height, width, row, column):
    logits = torch.zeros(1, 1, height, width, dtype=torch.float64)
    logits[0, 0, row, column] = 100.0
    return logits


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 8), (1, 1)])
def test_a_peak_gives_the_centre_of_its_cell(height, width):
    """As for pixels: the first centre is half a cell from the edge."""
    for row in range(height):
        for column in range(width):
            point = soft_argmax(peaked(height, width, row, column))[0, 0]
            expected = torch.tensor([(column + 0.5) / width, (row + 0.5) / height])
            assert torch.allclose(point, expected.double())


def test_a_heatmap_that_moves_by_a_cell_moves_its_point_by_a_cell():
    torch.manual_seed(0)
    logits = torch.full((2, 3, 8, 12), -1e4, dtype=torch.float64)
    logits[:, :, 2:5, 3:7] = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    moved = soft_argmax(logits.roll((1, 2), (2, 3))) - soft_argmax(logits)
    assert torch.allclose(moved, torch.tensor([2 / 12, 1 / 8]).double().expand_as(moved))
    mirrored = soft_argmax(logits.flip(3))
    assert torch.allclose(mirrored[..., 0], 1 - soft_argmax(logits)[..., 0])


def test_gradients_of_soft_argmax():
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft_argmax, logits)


def test_coordinates_are_float32_under_autocast():
    head = HeatmapLandmarkHead(3, 8).eval()
    features = 10 * torch.randn(2, 8, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.heatmaps(features).dtype == torch.bfloat16
        found = head(features)
        exact = soft_argmax(head.heatmaps(features).float())
    assert found.dtype == torch.float32
    assert torch.equal(found, exact.flatten(1))


def test_upsampling_is_symmetric():
    """A deconvolution that doubles a map is symmetric: a mirrored map gives mirrored heatmaps."""
    head = HeatmapLandmarkHead(2, 4, channels=4).eval()
    with torch.no_grad():
        for layer in head.upsample:
            if isinstance(layer, torch.nn.ConvTranspose2d):
                layer.weight.copy_(layer.weight + layer.weight.flip(3))
    features = torch.randn(1, 4, 3, 3)
    assert head.heatmaps(features).shape == (1, 2, 12, 12)
    points, mirrored = (head(x).view(2, 2) for x in (features, features.flip(3)))
    assert torch.allclose(mirrored[:, 0], 1 - points[:, 0], atol=1e-6)
    assert torch.allclose(mirrored[:, 1], points[:, 1], atol=1e-6)


def test_missing_points_have_no_gradient():
    torch.manual_seed(0)
    head = HeatmapLandmarkHead(2, 4, upsample=0)
    parts = torch.tensor([[True, True, False, False]])
    targets = torch.full((1, 4), 0.3)
    loss = head.loss(head(torch.randn(1, 4, 3, 3)), targets, torch.tensor([True]), parts)
    loss.backward()
    grad = head.heatmap.weight.grad
    assert grad[0].abs().sum() > 0
    assert torch.equal(grad[1], torch.zeros_like(grad[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(upsample=-1), r"HeatmapLandmarkHead\.upsample: expected an integer >= 0, found -1"),
        (dict(upsample=True), r"HeatmapLandmarkHead\.upsample: .* found True"),
        (dict(channels=0), r"HeatmapLandmarkHead\.channels: .* found 0"),
        (dict(loss="wing"), r"HeatmapLandmarkHead\.loss: expected one of"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        HeatmapLandmarkHead(3, 8, **options)


@pytest.mark.parametrize(("name", "shared"), [("test_resnet", -1), ("test_vit", "all")])
def test_heatmaps_train_with_missing_points_and_relations(name, shared):
    levels = ("output",) if shared == "all" else ("hidden", "output", "logits")
    model = build(name, shared, heads=HEADS, levels=levels)
    x, samples = batch(8)
    samples[0].gt["landmarks"][2] = float("nan")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        logged = model(x, samples, "loss")
        optimizer.zero_grad()
        sum(value for key, value in logged.items() if "loss" in key).backward()
        optimizer.step()
        losses.append(logged["loss_landmarks"].item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(p.grad is not None for p in model.parameters())
    widths = {level: model.neck.layers_of(level).dims[0] for level in levels}
    hidden = dict(hidden=model.backbone.num_features, output=10, logits=10)
    assert widths == {level: hidden[level] for level in levels}
    predicted = model.eval()(x, samples, "predict")[0].pred["landmarks"]
    assert predicted.shape == (5, 2)
    assert bool(((predicted > 0) & (predicted < 1)).all())


def test_exported_files_agree_with_pytorch(tmp_path):
    model = build(heads=HEADS, neck=False).eval()
    with torch.no_grad():
        model.heads["landmarks"].heatmap.weight.mul_(100)
    metadata = describe_model(model, (64, 64))
    assert metadata["tasks"]["landmarks"]["kind"] == "landmarks"
    pictures = [np.random.default_rng(0).integers(0, 256, (80, 72, 3), np.uint8)]
    out = tmp_path / "heatmap.onnx"
    found = export_onnx(model, out, (64, 64), metadata, check_images=pictures, features=True)
    assert max(found.values()) < 1e-4
    images = torch.from_numpy(pictures[0][None])
    exact = DeployModel(model, (64, 64))(images)[0]
    halved = DeployModel(in_float16(model), (64, 64))(images)[0]
    assert halved.dtype == torch.float32
    assert torch.allclose(halved, exact, atol=0.5)
